r"""Pre-train an encoder on your own folder of pictures, and see what it calls similar.

python -m examples.pretrain_pictures --data_dir data/my_pictures --max_epochs 30

Writes a checkpoint, report.html, and neighbours of the first picture into the folder of the run.
"""

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import main_embed
import main_pretrain
import main_report
from utils.cli import run
from utils.flags import Parser


def parse_args(argv: Sequence[str] | None = None) -> Namespace:
    """Read the command line, or ``argv`` in tests."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--data_dir", required=True, help="Folder or zip of JPEG, PNG or 8-bit TIFF files.")
    add("--base_encoder", default="resnet18", help="Name of a torchvision ResNet.")
    add("--max_epochs", default="30", help="Passes over all pictures.")
    # A picture must not meet its own embedding of the last epoch: fewer than there are pictures.
    add("--num_negatives", default="256", help="Embeddings that a picture is compared with.")
    add("--batch_size", default="64", help="Pictures per step, at most --num_negatives.")
    add("--log_dir", default="logs", help="Folder in which the run gets its own.")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> Path:
    """Pre-train, and return the folder of the run."""
    args = parse_args(argv)
    flags = [f"--{name}={value}" for name, value in vars(args).items()]
    trainer = main_pretrain.main([*flags, "--preset", "small_images", "--data_mode", "moco"])
    run_dir = Path(trainer.log_dir or "")

    # A report of the curves, of the views, and of what the embedding space calls similar.
    main_report.main([str(run_dir), "--data_dir", args.data_dir])

    # The encoder on all pictures: the ten that are most similar to the first one (row 0).
    encoder = ["--backbone_type", "pretrain", "--ckpt_path", f"{run_dir}/checkpoints/last.ckpt"]
    files = ["--data_dir", args.data_dir, "--save_path", f"{run_dir}/embedding.parquet"]
    main_embed.main([*encoder, *files, "--neighbours", "0"])
    return run_dir


if __name__ == "__main__":
    run(main)

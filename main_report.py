r"""Write the report of a run as one HTML file, or of several runs on top of each other.

  python main_report.py logs/pretrain-seco-resnet18/version_0 --data_dir data/seco_100k
  python main_report.py logs/eurosat-pretrain/version_0
  python main_report.py logs/pretrain-moco-resnet18/version_0 logs/pretrain-moco-resnet18/version_1

With --data_dir, the report of a pre-training shows what each embedding space calls similar. For an
evaluation, the same evaluation of a random encoder is run once, and shown next to it.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from datasets.seco.data_modes import DATA_MODES
from utils.cli import run
from utils.errors import NOT_AS_WRITTEN, UserError, printable
from utils.files import check_can_write, check_exists
from utils.flags import Parser

if TYPE_CHECKING:
    from models.run_report.spaces import Sample

SPACES = {name: mode.space_names for name, mode in DATA_MODES.items()}


def parse_args(argv: Sequence[str] | None = None) -> Namespace:
    """Read the command line, or ``argv`` in tests."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("run_dir", type=Path, nargs="+", metavar="RUN_DIR", help="Folder of a run, version_N.")
    add("--data_dir", type=Path, help="Imagery to show in the embedding spaces of a pre-training.")
    add(
        "--save_path",
        type=Path,
        help="File to write (default: report.html, or comparison.html, in the first folder).",
    )
    add("--no_baseline", action="store_true", help="Do not evaluate a random encoder.")
    add("--follow", action="store_true", help="Write it every minute until the runs end.")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> Path:
    """Write the report and return its path."""
    args = parse_args(argv)
    check_flags(args)
    from models.run_report.run_files import read_run
    from models.run_report.writing import FOLLOW_S, write_report

    if not args.no_baseline:
        for folder in args.run_dir:
            evaluate_random(folder)
    sample = None if args.data_dir is None else embed_sample(args.run_dir[0], args.data_dir)
    while True:
        follow = args.follow and not all(read_run(each).is_finished for each in args.run_dir)
        write_report(args.run_dir, args.save_path, SPACES, sample, follow=follow)
        print(f"report: {args.save_path}", flush=True)
        if not follow:
            return args.save_path
        time.sleep(FOLLOW_S)


def check_flags(args: Namespace) -> None:
    """Refuse values that cannot work, and complete the others."""
    for folder in args.run_dir:
        _check_folder(folder)
    check_exists("data_dir", args.data_dir)
    name = "report.html" if len(args.run_dir) == 1 else "comparison.html"
    args.save_path = args.save_path or args.run_dir[0] / name
    if args.save_path.suffix != ".html":
        raise UserError(f"--save_path {args.save_path} must end in .html")
    check_can_write("save_path", args.save_path, is_folder=False)
    if args.data_dir is not None and len(args.run_dir) > 1:
        raise UserError("--data_dir shows the spaces of one run: name one RUN_DIR")


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise UserError(f"RUN_DIR {folder} is not a folder: name the version_N of a run")


def evaluate_random(folder: Path) -> None:
    """Evaluate a random encoder as a finished evaluation has its own, unless that was done."""
    from models.run_report.baseline import baseline_command, find_baseline
    from models.run_report.run_files import read_run

    evaluation = read_run(folder)
    is_other = evaluation.arguments.get("backbone_type") not in (None, "random")
    try:
        if not is_other or not evaluation.is_finished or find_baseline(evaluation):
            return
        line = baseline_command(evaluation)
    except NOT_AS_WRITTEN as error:
        raise UserError(f"{folder} holds results that no run writes: restore its files") from error
    command = printable(shlex.join(line))
    print(f"evaluating a random encoder: python {command}", file=sys.stderr)
    root = Path(__file__).parent
    done = subprocess.run([sys.executable, str(root / line[0]), *line[1:]], check=False)
    if done.returncode:
        print("the random encoder could not be evaluated: --no_baseline skips it", file=sys.stderr)


def embed_sample(folder: Path, data_dir: Path) -> Sample:
    """Embed some patches with the encoder and the heads of a pre-training."""
    from datasets.imagery.rasters import RasterFlags
    from datasets.imagery_dataset import open_imagery
    from models.run_report.run_files import read_run
    from models.run_report.spaces import embed_sample as embed
    from models.run_report.spaces import load_spaces

    pretraining = read_run(folder)
    if not pretraining.is_pretraining:
        raise UserError(f"--data_dir is for a pre-training, which {folder} is not: leave it out")
    model, spec = load_spaces(folder / "checkpoints" / "last.ckpt")
    patches = open_imagery(data_dir, spec, RasterFlags(), on_bad_patch="skip")
    return embed(model, patches, SPACES[pretraining.arguments["data_mode"]])


if __name__ == "__main__":
    run(main)

r"""Map what changed between two GeoTIFFs of the same pixels, without labels.

python -m examples.change_map before.tif after.tif --ckpt_path last.ckpt

Writes change.tif, the change of each window in 0..2, and the same as a picture into --save_dir.
"""

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import main_embed
from utils.cli import run
from utils.errors import UserError
from utils.flags import Parser

WINDOWS = ("--patch_size", "32", "--stride", "16")  # of 320 m, every 160 m


def parse_args(argv: Sequence[str] | None = None) -> Namespace:
    """Read the command line, or ``argv`` in tests."""
    add = (parser := Parser(__doc__)).add_argument
    add("dates", nargs=2, metavar="FILE", help="GeoTIFF before, and after.")
    add("--ckpt_path", required=True, help="Encoder.")
    add("--save_dir", type=Path, default=Path("logs/change_map"), help="Folder to write into.")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> Path:
    """Compare the dates, and return the map."""
    args = parse_args(argv)
    path: Path = args.save_dir / "change.tif"
    if path.exists() or path.with_suffix(".png").exists():
        raise UserError(f"--save_dir {path.parent} has a change.tif or .png: choose another")
    encoder = ["--backbone_type", "pretrain", "--ckpt_path", args.ckpt_path, *WINDOWS]
    embeddings = [path.with_name(f"{path.stem}_{name}.tif") for name in ("before", "after")]
    for raster, embedding in zip(args.dates, embeddings, strict=True):
        main_embed.main([*encoder, "--data_dir", raster, "--save_path", str(embedding)])

    import numpy as np
    import rasterio
    from PIL import Image

    with rasterio.open(embeddings[0]) as before, rasterio.open(embeddings[1]) as after:
        if (before.shape, before.transform) != (after.shape, after.transform):
            raise UserError(f"{args.dates[1]} has other pixels than {args.dates[0]}: resample it")
        profile, dates = before.profile | {"count": 1}, [before.read(), after.read()]
    # Season and light change all windows alike: what a date has in common is no change.
    dates = [each - np.nanmean(each, axis=(1, 2), keepdims=True) for each in dates]
    change = 1 - np.prod([each / np.linalg.norm(each, axis=0) for each in dates], axis=0).sum(0)
    with rasterio.open(path, "w", **profile) as file:
        file.write(change, 1)
    shown = np.nan_to_num(255 * np.clip(change / np.nanquantile(change, 0.995), 0, 1))
    Image.fromarray(shown.astype(np.uint8)).resize((480, 480)).save(path.with_suffix(".png"))
    print(f"map: {path}")
    return path


if __name__ == "__main__":
    run(main)

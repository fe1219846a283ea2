r"""Load SeCo weights, embed a GeoTIFF, and see what the encoder distinguishes.

python -m examples.embed_geotiff --data_dir scene.tif --ckpt_path seco_resnet18_1m.ckpt

Writes the features of all windows (.npz), and their first three principal components as a picture.
"""

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from utils.cli import run
from utils.errors import UserError
from utils.flags import Parser


def parse_args(argv: Sequence[str] | None = None) -> Namespace:
    """Read the command line, or ``argv`` in tests."""
    add = (parser := Parser(__doc__)).add_argument
    add("--data_dir", type=Path, required=True, help="GeoTIFF with pixels of 10 m.")
    add("--ckpt_path", type=Path, required=True, help="Weights of SeCo, or of your own run.")
    add("--raster_bands", nargs="+", help="Names of the bands, if the file has none.")
    add("--save_dir", type=Path, default=Path("logs/embed_geotiff"), help="Folder to write into.")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> Path:
    """Embed the raster, and return the path of the features."""
    args = parse_args(argv)
    import numpy as np
    import torch
    from PIL import Image
    from sklearn.decomposition import PCA

    from datasets.imagery.rasters import RasterFlags
    from datasets.imagery_dataset import open_imagery
    from models.backbones import load_encoder

    encoder, spec = load_encoder("pretrain", ckpt_path=args.ckpt_path)  # and its input's contract
    print(f"{encoder.architecture}, {spec}")
    patches = open_imagery(args.data_dir, spec, RasterFlags(64, 32, bands=args.raster_bands))
    blocks = [patches.read(number) for number in range(len(patches) if patches.grid else 0)]
    if sum(len(block.ids) for block in blocks) < 3:  # as many as there are colours
        raise UserError(f"{args.data_dir} is no raster of 3 windows with data: give a larger one")
    with torch.inference_mode():
        inputs = (patches.transform.normalize(torch.from_numpy(each.pictures)) for each in blocks)
        features = torch.cat([encoder(each) for each in inputs]).numpy()
    cells = np.concatenate([block.cells for block in blocks])
    (path := args.save_dir / "embedding.npz").parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, features=features, cells=cells)
    print(f"{path}: features of shape {features.shape} of {patches.description}")
    low, high = np.quantile(shown := PCA(3).fit_transform(features), (0.02, 0.98), axis=0)
    colours = np.zeros((*(cells.max(0) + 1), 3), np.uint8)
    colours[*cells.T] = np.clip((shown - low) / (high - low) * 255, 0, 255)
    Image.fromarray(colours.repeat(16, 0).repeat(16, 1)).save(path.with_suffix(".png"))
    return path


if __name__ == "__main__":
    run(main)

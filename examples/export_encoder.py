r"""Export an encoder to timm and ONNX, and embed a picture with both, without this project.

python -m examples.export_encoder --ckpt_path last.ckpt --picture some.jpg

Needs timm, onnx, onnxscript and onnxruntime.
"""

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from models import export
from utils.cli import run
from utils.errors import UserError
from utils.files import read_file
from utils.flags import Parser
from utils.images import MAX_BYTES, read_image


def parse_args(argv: Sequence[str] | None = None) -> Namespace:
    """Read the command line, or ``argv`` in tests."""
    add = (parser := Parser(__doc__)).add_argument
    add("--ckpt_path", required=True, help="Encoder of red, green and blue.")
    add("--picture", required=True, help="Picture to embed.")
    add("--save_dir", type=Path, default=Path("logs/export_encoder"), help="Folder of the exports.")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Export, and return the features of the picture by both libraries, (1, D)."""
    args = parse_args(argv)
    try:
        picture = read_image(read_file(args.picture, MAX_BYTES), "RGB")
    except (OSError, ValueError) as error:
        raise UserError(f"{args.picture} is no readable JPEG, PNG or TIFF: correct it") from error
    paths = {"timm": args.save_dir / "timm", "onnx": args.save_dir / "encoder.onnx"}
    for form, path in paths.items():
        export.main(["--ckpt_path", args.ckpt_path, "--format", form, "--save_path", str(path)])

    # From here on, nothing of this project is used.
    import numpy as np
    import onnxruntime
    import timm
    import torch

    model: Any = timm.create_model(f"local-dir:{paths['timm']}", pretrained=True).eval()
    mean, std = model.pretrained_cfg["mean"], model.pretrained_cfg["std"]
    pixels = np.asarray(picture, np.float32) / 255
    inputs = ((pixels - mean) / std).astype(np.float32).transpose(2, 0, 1)[None]  # (1, 3, H, W)
    with torch.inference_mode():
        by_timm = model(torch.from_numpy(inputs)).numpy()
    (by_onnx,) = onnxruntime.InferenceSession(paths["onnx"]).run(["features"], {"input": inputs})
    difference = abs(by_timm - by_onnx).max()
    print(f"features of shape {by_timm.shape}; timm and ONNX differ by at most {difference:.1e}")
    return {"timm": by_timm, "onnx": by_onnx}


if __name__ == "__main__":
    run(main)

"""Download and verify the weights of the authors of Seasonal Contrast.

python checkpoints/download.py --list
python checkpoints/download.py seco_resnet18_1m
"""

import sys
from pathlib import Path

if not __package__:  # started as a script: the root is not on the path yet
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from collections.abc import Sequence

from utils.cli import run
from utils.collection import Collection, download_or_list
from utils.download import RemoteFile, zenodo_urls

_MD5 = {
    "seco_resnet18_100k": "dcf336be31f6c6b0e77dcb6cc958fca8",
    "seco_resnet18_1m": "53d5c41d0f479bdfd31d6746ad4126db",
    "seco_resnet50_100k": "9672c303f6334ef816494c13b9d05753",
    "seco_resnet50_1m": "7b09c54aed33c0c988b425c54f4ef948",
}


def _weights(name: str, md5: str) -> Collection:
    _, encoder, data = name.split("_")
    file_name = f"{name}.ckpt"
    file = RemoteFile(file_name, zenodo_urls(4728033, file_name), "CC-BY-4.0", md5=md5)
    about = f"{encoder}, pre-trained on {data} patches; bands B4 B3 B2"
    flags = ("--backbone_type", "pretrain", "--ckpt_path", f"{{}}/{file_name}")
    command = ("main_eurosat.py", "--data_dir", "EuroSAT_RGB.zip", *flags)
    return Collection(about, "", (file,), next_command=command)


COLLECTIONS = {name: _weights(name, md5) for name, md5 in _MD5.items()}


def main(argv: Sequence[str] | None = None) -> None:
    """Print the list, or download."""
    download_or_list(__doc__, COLLECTIONS, argv, Path(__file__).parent)


if __name__ == "__main__":
    run(main, resumes=True)

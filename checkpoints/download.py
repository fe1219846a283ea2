"""Download and verify the weights of the authors of Seasonal Contrast.

python checkpoints/download.py --list
python checkpoints/download.py seco_resnet18_1m
"""

import sys
from pathlib import Path

if not __package__:  # started as a script: the root is not on the path yet
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from collections.abc import Sequence

from models.digests import PUBLISHED
from utils.cli import run
from utils.collection import Collection, download_or_list
from utils.download import RemoteFile, zenodo_urls


def _weights(name: str, md5: str) -> Collection:
    _, encoder, data = name.split("_")
    file_name = f"{name}.ckpt"
    file = RemoteFile(file_name, zenodo_urls(4728033, file_name), "CC-BY-4.0", md5=md5)
    about = f"{encoder}, pre-trained on {data} patches; bands B4 B3 B2"
    flags = ("--backbone_type", "pretrain", "--ckpt_path", f"{{}}/{file_name}")
    command = ("main_eurosat.py", "--data_dir", "EuroSAT_RGB.zip", *flags)
    return Collection(about, "", (file,), next_command=command)


COLLECTIONS = {
    Path(name).stem: _weights(Path(name).stem, digest)
    for name, (kind, digest) in PUBLISHED.items()
    if kind == "md5"
}


def main(argv: Sequence[str] | None = None) -> None:
    """Print the list, or download."""
    download_or_list(__doc__, COLLECTIONS, argv, Path(__file__).parent)


if __name__ == "__main__":
    run(main, resumes=True)

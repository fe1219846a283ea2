"""Download, verify and, if its reader needs a folder, unpack a public data set.

python datasets/download.py --list
python datasets/download.py eurosat_rgb --save_path data/eurosat
"""

import sys
from pathlib import Path

if not __package__:  # started as a script: the root is not on the path yet
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from collections.abc import Sequence
from urllib.parse import quote

from utils.cli import run
from utils.collection import Collection, download_or_list
from utils.download import RemoteFile, zenodo_urls

# Copies of the data sets, each at one commit.
_HUB = "https://hf.co/datasets"
_EUROSAT = f"{_HUB}/torchgeo/eurosat/resolve/1ce6f1bfb56db63fd91b6ecc466ea67f2509774c"
_REBEN = f"{_HUB}/torchgeo/bigearthnet/resolve/3cf3a5910a5302d449fdb8e570e5b78de24fe07f/V2"
_OSCD = f"{_HUB}/hkristen/oscd/resolve/4958d786c1389ede1511d91a6ecf1a75c4074933"
# Official split without patches of snow, cloud or shadow: columns S2, S1.
_SPLITS = (
    "https://git.tu-berlin.de/rsim/BigEarthNet-MM_19-classes_models/-/raw/"
    "9a5be07346ab0884b2d9517475c27ef9db9b5104/splits"
)
# Lists of patches with snow or clouds. bigearth.net, which published them, no longer answers; these
# copies are in two commits of a project of its authors.
_BAD_PATCHES = "https://raw.githubusercontent.com/kai-tub/bigearthnet-pipeline"
_CDLA = "CDLA-Permissive-1.0"

_EUROSAT_LISTS = tuple(
    RemoteFile(f"eurosat-{split}.txt", (f"{_EUROSAT}/eurosat-{split}.txt",), "MIT", sha256=sha256)
    for split, sha256 in {
        "train": "1c1d2e855f95deee605a3d992f914d113fddbecf422ec61648057d029a37d695",
        "val": "b385741f31daa9f1250cf1e1fe03adfab394e1172e0693df40141af004f60330",
        "test": "cf37948894c12bd953930ff54ee9b7abf0b31478abb8d25fd2c6c721db74c592",
        "spatial-train": "2db7d455afb8dcbca898ea19a00f1f90c091734efdbba89e22aaf24056da243f",
        "spatial-val": "6c758477604b7057a0fd990d7f6327b63b99a6725aac11a6a9d0174a7fdd8f0b",
        "spatial-test": "de22dec83d350cac3b3e4ca8e285cb6733c81ab94bf5bcf9213a567993402452",
    }.items()
)
_BIGEARTHNET_LISTS = tuple(
    RemoteFile(f"{split}.csv", (f"{_SPLITS}/{split}.csv?inline=false",), _CDLA, md5=md5)
    for split, md5 in {
        "train": "623e501b38ab7b12fe44f0083c00986d",
        "val": "22efe8ed9cbd71fa10742ff7df2b7978",
        "test": "697fb90677e30571b9ac7699b7e5b432",
    }.items()
)
_BAD_PATCH_LISTS = tuple(
    RemoteFile(
        f"patches_with_{what}.csv",
        (f"{_BAD_PATCHES}/{commit}/tracked-artifacts/patches_with_{what}.csv",),
        *("MIT", size),
        sha256=sha256,
    )
    for what, size, commit, sha256 in (
        (
            *("seasonal_snow", 2_065_439, "d60a92c83176c17ee42ef28e59e62de2c0a8948f"),
            "6e7f0f46a9de20cb2e9f276ea9d53dd926dfbde0c381e51e17cd7feffeb1080f",
        ),
        (
            *("cloud_and_shadow", 313_331, "289cfeba4ae78d6c5230358726220c7653d83369"),
            "e7fa65fd16c3a5b1f5c1e0e3695d707bcf410a6befe2b5c5cbaa921fcf377f50",
        ),
    )
)
_PIECES = {
    "BigEarthNet-S2.tar.gzaa": "a44e4c9d8dde1affd7107640dd0070b811ca848205363f8dd8f75bebccea0ed3",
    "BigEarthNet-S2.tar.gzab": "e0bfe57038e07ff09add42e5bff108d221da10a6e45533fd2eb4ac05e6d90dc2",
}
_REBEN_FILES = (
    *(RemoteFile(name, (f"{_REBEN}/{name}",), _CDLA, sha256=sha) for name, sha in _PIECES.items()),
    RemoteFile(
        *("metadata.parquet", (f"{_REBEN}/metadata.parquet",), _CDLA, 3_616_349),
        sha256="408911df2da7092da9ecc72071972a808ec486ba09f6cb048f7716793d14ded6",
    ),
)
_OSCD_FILES = tuple(
    RemoteFile(
        name := f"Onera Satellite Change Detection dataset - {part}.zip",
        (f"{_OSCD}/{quote(name)}", f"https://partage.imt.fr/index.php/s/{share}/download"),
        *("CC-BY-NC-SA-4.0", size),
        sha256=sha256,
    )
    for part, share, size, sha256 in (
        (
            *("Images", "gKRaWgRnLMfwMGo", 512_716_711),
            "940b87887511058a933e67cd6d0e43e2eb825a55d8e79a50983dee7f23003656",
        ),
        (
            *("Train Labels", "2D6n03k58ygBSpu", 137_873),
            "89fb54cd12ad0dbea6c447528139dec305b865294215434bf6dd170fb8fd3ca5",
        ),
        (
            *("Test Labels", "gpStKn4Mpgfnr63", 83_614),
            "2e195eaa1b788b99fa93ea8073e3780bc0b763000b0c49dbf70548acf1e5d67d",
        ),
    )
)


def _probe(script: str, data_dir: str) -> tuple[str, ...]:
    """Return the command that evaluates a random encoder, as a baseline."""
    return (script, "--data_dir", data_dir, "--backbone_type", "random")


_WRITE_LMDB = ("datasets/bigearthnet_dataset.py", "--data_dir", "{}", "--save_dir", "{}_lmdb")


def _seco(name: str, patches: str, size: str, md5: str) -> Collection:
    """Describe a zip of SeCo patches; the next step packs it."""
    zipped = f"{name}.zip"
    pack = ("datasets/seco_packed.py", "--data_dir", f"{{}}/{zipped}")
    return Collection(
        f"Seasonal Contrast, {patches} patches; the zip is read in place",
        size,
        (RemoteFile(zipped, zenodo_urls(4728033, zipped), "CC-BY-4.0", md5=md5),),
        next_command=(*pack, "--save_path", f"{{}}/{name}_packed"),
    )


def _eurosat(about: str, size: str, file: RemoteFile) -> Collection:
    """Describe a zip of EuroSAT with the lists of its splits; the next step evaluates on it."""
    return Collection(
        f"EuroSAT, {about}, random and spatial split; the zip is read in place",
        size,
        (file, *_EUROSAT_LISTS),
        next_command=_probe("main_eurosat.py", f"{{}}/{file.name}"),
    )


COLLECTIONS = {
    "seco_100k": _seco("seco_100k", "100,000", "7.3 GB", "ebf2d5e03adc6e657f9a69a20ad863e0"),
    "seco_1m": _seco("seco_1m", "a million", "36.3 GB", "187963d852d4d3ce6637743ec3a4bd9e"),
    "eurosat_rgb": _eurosat(
        *("27,000 pictures", "95 MB"),
        RemoteFile(
            "EuroSAT_RGB.zip",
            zenodo_urls(7711810, "EuroSAT_RGB.zip"),
            *("MIT", 94_658_721),
            sha256="b4f5b234ecb7d7ff9c6cddb046543b4717c53fd6e9815be6c0e80cc614f51b90",
        ),
    ),
    "eurosat_13": _eurosat(
        *("13 bands", "2.1 GB"),
        RemoteFile(
            name := "EuroSATallBands.zip",
            (f"{_EUROSAT}/{name}", f"https://madm.dfki.de/files/sentinel/{name}"),
            *("MIT", 2_067_725_275),
            sha256="751f070f9bffa2eed48b24ca2dd0b02959280c08837e8c9a5532a67ba611df59",
        ),
    ),
    "bigearthnet_v1": Collection(
        "BigEarthNet-S2 v1.0, official split, lists of patches with snow and with clouds",
        "66 GB",
        (
            RemoteFile(
                name := "BigEarthNet-S2-v1.0.tar.gz",
                zenodo_urls(12687186, name),
                _CDLA,
                md5="5a64e9ce38deb036a435a7b59494924c",
            ),
            *_BIGEARTHNET_LISTS,
            *_BAD_PATCH_LISTS,
        ),
        {"BigEarthNet-v1.0": (name,)},
        "The publisher no longer offers the split that the original used.",
        _WRITE_LMDB,
    ),
    "bigearthnet_v2": Collection(
        "reBEN: BigEarthNet-S2 v2.0 with its labels and split",
        "63 GB",
        _REBEN_FILES,
        {"BigEarthNet-S2": tuple(_PIECES)},
        next_command=_WRITE_LMDB,
    ),
    "oscd": Collection(
        "Onera Satellite Change Detection: 24 cities at two dates, 13 bands, change masks",
        "513 MB",
        _OSCD_FILES,
        {Path(file.name).stem: (file.name,) for file in _OSCD_FILES},
        next_command=_probe("main_oscd.py", "{}"),
    ),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Print the list, or download."""
    download_or_list(__doc__, COLLECTIONS, argv)


if __name__ == "__main__":
    run(main, resumes=True)

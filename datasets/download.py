"""Download, verify and, if its reader needs a folder, unpack a public data set.

python datasets/download.py --list
python datasets/download.py eurosat_rgb --save_path data/eurosat
"""

import sys
from pathlib import Path

if not __package__:  # started as a script: the root is not on the path yet
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from collections.abc import Sequence
from functools import partial
from urllib.parse import quote

from utils.cli import run
from utils.collection import Collection, download_or_list
from utils.download import RemoteFile, zenodo_urls

_Seco = partial(RemoteFile, licence="CC-BY-4.0")
_Eurosat = partial(RemoteFile, licence="MIT")
_BigEarthNet = partial(RemoteFile, licence="CDLA-Permissive-1.0")
_Oscd = partial(RemoteFile, licence="CC-BY-NC-SA-4.0")


def _hub(repo: str, commit: str, name: str) -> str:
    return f"https://hf.co/datasets/{repo}/resolve/{commit}/{quote(name)}"


_eurosat = partial(_hub, "torchgeo/eurosat", "1ce6f1bfb56db63fd91b6ecc466ea67f2509774c")
_bigearthnet_v2 = partial(_hub, "torchgeo/bigearthnet", "3cf3a5910a5302d449fdb8e570e5b78de24fe07f")
_oscd = partial(_hub, "hkristen/oscd", "4958d786c1389ede1511d91a6ecf1a75c4074933")

_EUROSAT_LISTS = tuple(
    _Eurosat(f"eurosat-{split}.txt", (_eurosat(f"eurosat-{split}.txt"),), sha256=sha256)
    for split, sha256 in {
        "train": "1c1d2e855f95deee605a3d992f914d113fddbecf422ec61648057d029a37d695",
        "val": "b385741f31daa9f1250cf1e1fe03adfab394e1172e0693df40141af004f60330",
        "test": "cf37948894c12bd953930ff54ee9b7abf0b31478abb8d25fd2c6c721db74c592",
        "spatial-train": "2db7d455afb8dcbca898ea19a00f1f90c091734efdbba89e22aaf24056da243f",
        "spatial-val": "6c758477604b7057a0fd990d7f6327b63b99a6725aac11a6a9d0174a7fdd8f0b",
        "spatial-test": "de22dec83d350cac3b3e4ca8e285cb6733c81ab94bf5bcf9213a567993402452",
    }.items()
)

# Official split without patches of snow, cloud or shadow: columns S2, S1.
_BIGEARTHNET_LISTS = tuple(
    _BigEarthNet(
        f"{split}.csv",
        (
            "https://git.tu-berlin.de/rsim/BigEarthNet-MM_19-classes_models/-/raw/"
            f"9a5be07346ab0884b2d9517475c27ef9db9b5104/splits/{split}.csv?inline=false",
        ),
        md5=md5,
    )
    for split, md5 in {
        "train": "623e501b38ab7b12fe44f0083c00986d",
        "val": "22efe8ed9cbd71fa10742ff7df2b7978",
        "test": "697fb90677e30571b9ac7699b7e5b432",
    }.items()
)


def _bad_patches(name: str, commit: str, size: int, sha256: str) -> RemoteFile:
    """Describe a list of patches with snow or clouds.

    bigearth.net, which published the lists, no longer answers; these copies are in two commits of a
    project of its authors.
    """
    repository = "https://raw.githubusercontent.com/kai-tub/bigearthnet-pipeline"
    url = f"{repository}/{commit}/tracked-artifacts/{name}"
    return RemoteFile(name, (url,), "MIT", size=size, sha256=sha256)


_BAD_PATCH_LISTS = (
    _bad_patches(
        "patches_with_seasonal_snow.csv",
        "d60a92c83176c17ee42ef28e59e62de2c0a8948f",
        2_065_439,
        "6e7f0f46a9de20cb2e9f276ea9d53dd926dfbde0c381e51e17cd7feffeb1080f",
    ),
    _bad_patches(
        "patches_with_cloud_and_shadow.csv",
        "289cfeba4ae78d6c5230358726220c7653d83369",
        313_331,
        "e7fa65fd16c3a5b1f5c1e0e3695d707bcf410a6befe2b5c5cbaa921fcf377f50",
    ),
)

_BIGEARTHNET_V2_PIECES = tuple(
    _BigEarthNet(name, (_bigearthnet_v2(f"V2/{name}"),), sha256=sha256)
    for name, sha256 in {
        "BigEarthNet-S2.tar.gzaa": (
            "a44e4c9d8dde1affd7107640dd0070b811ca848205363f8dd8f75bebccea0ed3"
        ),
        "BigEarthNet-S2.tar.gzab": (
            "e0bfe57038e07ff09add42e5bff108d221da10a6e45533fd2eb4ac05e6d90dc2"
        ),
    }.items()
)

_OSCD_FILES = tuple(
    _Oscd(
        name := f"Onera Satellite Change Detection dataset - {part}.zip",
        (_oscd(name), f"https://partage.imt.fr/index.php/s/{share}/download"),
        size=size,
        sha256=sha256,
    )
    for part, share, size, sha256 in (
        (
            "Images",
            "gKRaWgRnLMfwMGo",
            512_716_711,
            "940b87887511058a933e67cd6d0e43e2eb825a55d8e79a50983dee7f23003656",
        ),
        (
            "Train Labels",
            "2D6n03k58ygBSpu",
            137_873,
            "89fb54cd12ad0dbea6c447528139dec305b865294215434bf6dd170fb8fd3ca5",
        ),
        (
            "Test Labels",
            "gpStKn4Mpgfnr63",
            83_614,
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
    file_name = f"{name}.zip"
    return Collection(
        f"Seasonal Contrast, {patches} patches; the zip is read in place",
        size,
        (_Seco(file_name, zenodo_urls(4728033, file_name), md5=md5),),
        next_command=(
            *("datasets/seco_packed.py", "--data_dir", f"{{}}/{file_name}"),
            *("--save_path", f"{{}}/{name}_packed"),
        ),
    )


COLLECTIONS = {
    "seco_100k": _seco("seco_100k", "100,000", "7.3 GB", "ebf2d5e03adc6e657f9a69a20ad863e0"),
    "seco_1m": _seco("seco_1m", "a million", "36.3 GB", "187963d852d4d3ce6637743ec3a4bd9e"),
    "eurosat_rgb": Collection(
        "EuroSAT, 27,000 pictures, random and spatial split; the zip is read in place",
        "95 MB",
        (
            _Eurosat(
                "EuroSAT_RGB.zip",
                zenodo_urls(7711810, "EuroSAT_RGB.zip"),
                size=94_658_721,
                sha256="b4f5b234ecb7d7ff9c6cddb046543b4717c53fd6e9815be6c0e80cc614f51b90",
            ),
            *_EUROSAT_LISTS,
        ),
        next_command=_probe("main_eurosat.py", "{}/EuroSAT_RGB.zip"),
    ),
    "eurosat_13": Collection(
        "EuroSAT, 13 bands, random and spatial split; the zip is read in place",
        "2.1 GB",
        (
            _Eurosat(
                "EuroSATallBands.zip",
                (
                    _eurosat("EuroSATallBands.zip"),
                    "https://madm.dfki.de/files/sentinel/EuroSATallBands.zip",
                ),
                size=2_067_725_275,
                sha256="751f070f9bffa2eed48b24ca2dd0b02959280c08837e8c9a5532a67ba611df59",
            ),
            *_EUROSAT_LISTS,
        ),
        next_command=_probe("main_eurosat.py", "{}/EuroSATallBands.zip"),
    ),
    "bigearthnet_v1": Collection(
        "BigEarthNet-S2 v1.0, official split, lists of patches with snow and with clouds",
        "66 GB",
        (
            _BigEarthNet(
                "BigEarthNet-S2-v1.0.tar.gz",
                zenodo_urls(12687186, "BigEarthNet-S2-v1.0.tar.gz"),
                md5="5a64e9ce38deb036a435a7b59494924c",
            ),
            *_BIGEARTHNET_LISTS,
            *_BAD_PATCH_LISTS,
        ),
        {"BigEarthNet-v1.0": ("BigEarthNet-S2-v1.0.tar.gz",)},
        "The publisher no longer offers the split that the original used.",
        next_command=_WRITE_LMDB,
    ),
    "bigearthnet_v2": Collection(
        "reBEN: BigEarthNet-S2 v2.0 with its labels and split",
        "63 GB",
        (
            *_BIGEARTHNET_V2_PIECES,
            _BigEarthNet(
                "metadata.parquet",
                (_bigearthnet_v2("V2/metadata.parquet"),),
                size=3_616_349,
                sha256="408911df2da7092da9ecc72071972a808ec486ba09f6cb048f7716793d14ded6",
            ),
        ),
        {"BigEarthNet-S2": ("BigEarthNet-S2.tar.gzaa", "BigEarthNet-S2.tar.gzab")},
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
    run(main)

"""Small data sets in BigEarthNet's layouts, made from a folder of v1."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from datasets.bigearthnet.facts import NEW_LABELS, multi_hot
from datasets.bigearthnet.lists import BAD_LISTS

REAL = Path(__file__).resolve().parents[3] / "shared" / "data"


def copied(root: Path, target: Path) -> Path:
    """Copy a data set, to change it."""
    return Path(shutil.copytree(root, target))


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def kept(root: Path, split: str) -> list[str]:
    """Names that the original would take: those of the list without snow and clouds."""
    bad = {name for file in BAD_LISTS.values() for name in lines(root / file)}
    return [name for name in lines(root / f"bigearthnet-{split}.txt") if name not in bad]


def labels_in(root: Path, name: str) -> list[str]:
    path = root / "BigEarthNet-v1.0" / name / f"{name}_labels_metadata.json"
    labels: list[str] = json.loads(path.read_text())["labels"]
    return labels


def as_version_2(root: Path, target: Path) -> Path:
    """Write the patches of v1 under names and in the layout of v2, with its metadata."""
    rows = []
    for split, spelling in (("train", "train"), ("val", "validation"), ("test", "test")):
        for old in kept(root, split):
            hot = multi_hot([old], [labels_in(root, old)], 19)[0]
            labels = [name for name, one in zip(NEW_LABELS, hot, strict=True) if one]
            craft, level, date, *place = old.split("_")
            new = "_".join((craft, level, date, "N9999_R080_T29UPU", *place))
            scene = target / "BigEarthNet-S2" / new.rsplit("_", 2)[0]
            for path in (root / "BigEarthNet-v1.0" / old).glob("*.tif"):
                (scene / new).mkdir(parents=True, exist_ok=True)
                shutil.copy(path, scene / new / path.name.replace(old, new))
            rows.append({"patch_id": new, "labels": labels, "split": spelling, "s1_name": "S1"})
    pq.write_table(pa.Table.from_pylist(rows), target / "metadata.parquet")
    return target

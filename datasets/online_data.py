"""The labelled pictures for the probes during a pre-training, from EuroSAT or BigEarthNet."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from datasets.bigearthnet.facts import BIGEARTHNET_SPEC, V1_FOLDER, V2_FOLDER
from datasets.bigearthnet.index import open_bigearthnet
from datasets.bigearthnet.lmdb_store import DATA_FILE
from datasets.bigearthnet.pictures import BigEarthNetPictures
from datasets.eurosat_dataset import EurosatDataset
from utils.input_spec import InputSpec, input_transform
from utils.probe_data import LabelledSplit, ProbeData, splits_in_memory
from utils.progress import progress
from utils.subset import rarest_labels, stratified_subset

SPLIT_SEED = 0  # of EuroSAT without lists, and of BigEarthNet's share
# Share of BigEarthNet's train and of its validation patches, as in the original's online probe, and
# the number of patches to read at least, as far as a part of BigEarthNet has them.
BIGEARTHNET_SHARE = 0.01
FEWEST_PATCHES = 500


def read_online_data(
    data_dir: Path, spec: InputSpec, num_threads: int, fewest_patches: int = FEWEST_PATCHES
) -> ProbeData:
    """Detect the data set, and read its train and validation pictures.

    Args:
        data_dir: EuroSAT as a zip or folder, which is read whole; or BigEarthNet v1 or v2 as a
            folder or LMDB.
        spec: What the encoder expects.
        num_threads: Threads that read.
        fewest_patches: Patches of each split of BigEarthNet to read at least.
    """
    is_lmdb = _is_lmdb(data_dir)
    if is_lmdb or _is_bigearthnet_folder(data_dir):
        return _read_bigearthnet(data_dir, is_lmdb, spec, num_threads, fewest_patches)
    dataset = EurosatDataset(data_dir)
    transform = input_transform(spec, dataset.spec, "auto")
    rows = dataset.splits(SPLIT_SEED)
    images = dataset.read_images(transform, num_threads)
    del rows["test"]
    splits = splits_in_memory(images, dataset.labels, dataset.names, rows)
    return ProbeData(transform, splits, dataset.classes)


def evaluation_command(data_dir: Path) -> tuple[str, ...]:
    """Return the script, with flags, that trains a linear layer on the whole data set."""
    is_lmdb = _is_lmdb(data_dir)
    if not is_lmdb and not _is_bigearthnet_folder(data_dir):
        return "main_eurosat.py", "--data_dir", str(data_dir)
    flags = ("--freeze_backbone", "--learning_rate", "1e-3", *["--lmdb"] * is_lmdb)
    return "main_bigearthnet.py", "--data_dir", str(data_dir), *flags


def _is_lmdb(data_dir: Path) -> bool:
    return any(data_dir.glob(DATA_FILE)) or any(data_dir.glob(f"*/{DATA_FILE}"))


def _is_bigearthnet_folder(data_dir: Path) -> bool:
    names = (V1_FOLDER, V2_FOLDER)
    return data_dir.name in names or any((data_dir / name).is_dir() for name in names)


def _read_bigearthnet(
    data_dir: Path, is_lmdb: bool, spec: InputSpec, num_threads: int, fewest: int
) -> ProbeData:
    """Read a share of the train and of the validation patches into memory."""
    transform = input_transform(spec, BIGEARTHNET_SPEC, "auto")  # refuses before it reads
    index = open_bigearthnet(data_dir, lmdb=is_lmdb)
    splits: dict[str, LabelledSplit] = {}
    for split in ("train", "val"):
        rows = index.splits[split]
        share = min(1.0, max(BIGEARTHNET_SHARE, fewest / len(rows)))
        rows = rows[stratified_subset(rarest_labels(index.targets[rows]), share, SPLIT_SEED)]
        pictures = BigEarthNetPictures(index, rows, transform)
        with ThreadPoolExecutor(max(1, num_threads)) as pool:
            read = pool.map(lambda item, source=pictures: source[item][0], range(len(pictures)))
            text = f"reading BigEarthNet {split}"
            images = torch.stack(list(progress(read, desc=text, total=len(rows), leave=False)))
        everything = {split: torch.arange(len(rows))}
        splits |= splits_in_memory(images, pictures.targets, pictures.names, everything)
    return ProbeData(transform, splits, index.classes)

"""The labelled pictures of the probes during a pre-training, from whatever data set is given."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from datasets.bigearthnet.facts import BIGEARTHNET_SPEC, V1_FOLDER, V2_FOLDER
from datasets.bigearthnet.index import BigEarthNet, open_bigearthnet
from datasets.bigearthnet.lmdb_store import DATA_FILE
from datasets.bigearthnet.pictures import BigEarthNetPictures
from datasets.eurosat_dataset import EurosatDataset
from utils.input_spec import InputSpec, InputTransform, input_transform
from utils.probe_pictures import ProbePictures
from utils.progress import progress
from utils.subset import rarest_labels, stratified_subset

SPLIT_SEED = 0  # of EuroSAT without lists, and of BigEarthNet's share
# Of BigEarthNet's train and of its validation patches, as in the original's online probe; of a part
# of BigEarthNet more, if it is too small for that.
BIGEARTHNET_SHARE = 0.01
FEWEST_PATCHES = 500


def read_online_data(
    data_dir: Path, spec: InputSpec, num_threads: int, fewest_patches: int = FEWEST_PATCHES
) -> ProbePictures:
    """Find out which data set it is, and read train and validation pictures.

    Args:
        data_dir: EuroSAT as a zip or folder, of which all is read; or BigEarthNet v1 or v2 as a
            folder or LMDB.
        spec: What the encoder expects.
        num_threads: Threads that read.
        fewest_patches: Of each split of BigEarthNet, as far as it has them.
    """
    is_lmdb = any(data_dir.glob(DATA_FILE)) or any(data_dir.glob(f"*/{DATA_FILE}"))
    is_folder = data_dir.name in (V1_FOLDER, V2_FOLDER) or any(
        (data_dir / name).is_dir() for name in (V1_FOLDER, V2_FOLDER)
    )
    if not is_lmdb and not is_folder:
        return _read_eurosat(data_dir, spec, num_threads)
    transform = input_transform(spec, BIGEARTHNET_SPEC, "auto")  # refuses before it reads
    index = open_bigearthnet(data_dir, lmdb=is_lmdb)
    train, train_targets = _read_share(index, "train", fewest_patches, transform, num_threads)
    val, val_targets = _read_share(index, "val", fewest_patches, transform, num_threads)
    return ProbePictures(transform, train, train_targets, val, val_targets, len(index.classes))


def _read_eurosat(data_dir: Path, spec: InputSpec, num_threads: int) -> ProbePictures:
    dataset = EurosatDataset(data_dir)
    transform = input_transform(spec, dataset.spec, "auto")
    splits = dataset.splits(SPLIT_SEED)
    images = dataset.read_images(transform, num_threads)
    train, val = splits["train"], splits["val"]
    labels, num_classes = dataset.labels, len(dataset.classes)
    return ProbePictures(
        transform, images[train], labels[train], images[val], labels[val], num_classes
    )


def _read_share(
    index: BigEarthNet, split: str, fewest: int, transform: InputTransform, num_threads: int
) -> tuple[Tensor, Tensor]:
    """Read some patches of a split: uint8 (N, bands, S, S) and labels, float32 (N, classes)."""
    rows = index.splits[split]
    share = min(1.0, max(BIGEARTHNET_SHARE, fewest / len(rows)))
    rows = rows[stratified_subset(rarest_labels(index.targets[rows]), share, SPLIT_SEED)]
    pictures = BigEarthNetPictures(index, rows, transform)
    with ThreadPoolExecutor(max(1, num_threads)) as pool:
        read = pool.map(lambda item: pictures[item][0], range(len(pictures)))
        bar = progress(read, desc=f"reading BigEarthNet {split}", total=len(pictures), leave=False)
        return torch.stack(list(bar)), pictures.targets

"""The labelled pictures for the probes during a pre-training, from EuroSAT or BigEarthNet."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from datasets.bigearthnet.facts import BIGEARTHNET_SPEC
from datasets.bigearthnet.index import is_bigearthnet, is_lmdb, open_bigearthnet
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
    if not is_bigearthnet(data_dir):
        dataset = EurosatDataset(data_dir)
        transform = input_transform(spec, dataset.spec, "auto")
        rows = dataset.splits(SPLIT_SEED)
        del rows["test"]
        images = dataset.read_images(transform, num_threads)
        in_memory = splits_in_memory(images, dataset.labels, dataset.names, rows)
        return ProbeData(transform, in_memory, dataset.classes)
    transform = input_transform(spec, BIGEARTHNET_SPEC, "auto")  # refuses before it reads
    index = open_bigearthnet(data_dir, lmdb=is_lmdb(data_dir))
    splits: dict[str, LabelledSplit] = {}
    for split in ("train", "val"):
        own = index.splits[split]
        share = min(1.0, max(BIGEARTHNET_SHARE, fewest_patches / len(own)))
        own = own[stratified_subset(rarest_labels(index.targets[own]), share, SPLIT_SEED)]
        pictures = BigEarthNetPictures(index, own, transform)
        with ThreadPoolExecutor(max(1, num_threads)) as pool:
            read = pool.map(lambda item, source=pictures: source[item][0], range(len(pictures)))
            text = f"reading BigEarthNet {split}"
            images = torch.stack(list(progress(read, desc=text, total=len(own), leave=False)))
        all_rows = {split: torch.arange(len(own))}
        splits |= splits_in_memory(images, pictures.targets, pictures.names, all_rows)
    return ProbeData(transform, splits, index.classes)


def evaluation_command(data_dir: Path) -> tuple[str, ...]:
    """Return the script, with flags, that trains a linear layer on the whole data set."""
    if not is_bigearthnet(data_dir):
        return "main_eurosat.py", "--data_dir", str(data_dir)
    flags = ("--freeze_backbone", "--learning_rate", "1e-3", *["--lmdb"] * is_lmdb(data_dir))
    return "main_bigearthnet.py", "--data_dir", str(data_dir), *flags

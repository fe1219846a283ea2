"""The labelled pictures of the probes during a pre-training, from whatever data set is given."""

from pathlib import Path

from datasets.eurosat_dataset import EurosatDataset
from utils.input_transform import input_transform
from utils.labelled_pictures import LabelledPictures
from utils.normalization import InputSpec

_SPLIT_SEED = 0  # of EuroSAT without lists; that of main_eurosat.py


def read_online_data(data_dir: Path, spec: InputSpec, num_threads: int) -> LabelledPictures:
    """Read the train and validation splits as the encoder sees them.

    Args:
        data_dir: EuroSAT in any form.
        spec: What the encoder expects.
        num_threads: Threads that decode.
    """
    dataset = EurosatDataset(data_dir)
    transform = input_transform(spec, dataset.spec, "auto")
    splits = dataset.splits(_SPLIT_SEED)
    images = dataset.read_images(transform, num_threads)
    train, val = splits["train"], splits["val"]
    return LabelledPictures(
        transform,
        images[train],
        dataset.labels[train],
        images[val],
        dataset.labels[val],
        len(dataset.classes),
    )

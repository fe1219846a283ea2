"""From a folder of patches to the views of a training step, in the three modes of SeCo."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from datasets.bad_patches import BadPatchList, OnBadPatch
from datasets.bands import RESOLUTION_M, RGB_BANDS
from datasets.image_dataset import ImageDataset
from datasets.seco_dataset import SecoDataset
from datasets.seeded_sampler import SeededSampler
from utils.augment import Augment, AugmentConfig
from utils.errors import UserError
from utils.normalization import InputSpec
from utils.random import sample_keys


@dataclass(frozen=True)
class View:
    """A picture that an encoder sees.

    Attributes:
        date: Which of the sample's dates is shown.
        synthetic: Colour, blur and flip change it; otherwise only the random crop does.
    """

    date: int
    synthetic: bool


@dataclass(frozen=True)
class DataMode:
    """What a sample is and what is made of it.

    Attributes:
        num_dates: Dates of a sample.
        every_date: Each date of a place is a sample of its own.
        crop_first: Crop before colour and blur, as MoCo does; SeCo changes the whole patch first.
        views: The query, then the key of each embedding space.
    """

    num_dates: int
    every_date: bool
    crop_first: bool
    views: tuple[View, ...]

    @property
    def emb_spaces(self) -> int:
        """Number of embedding spaces, each with a head and a queue."""
        return len(self.views) - 1


DATA_MODES = {
    "moco": DataMode(1, True, True, (View(0, True), View(0, True))),
    "moco_tp": DataMode(2, False, True, (View(0, True), View(1, True))),
    # Figure 2 of the paper. Keys 0, 1, 2: all, temporal, synthetic transformations.
    "seco": DataMode(
        3, False, False, (View(0, False), View(1, True), View(2, False), View(0, True))
    ),
}


class SecoDataModule(LightningDataModule):
    """Read SeCo patches, or in mode moco any pictures, and make views of them on the device.

    The ``Trainer`` needs ``use_distributed_sampler=False``.

    Args:
        data_dir: SeCo folder; in mode moco also a folder or zip of pictures.
        data_mode: Key of ``DATA_MODES``.
        bands: Bands in channel order; pictures have red, green, blue only.
        batch_size: Samples per step and process.
        num_workers: Processes that read.
        seed: Seed of order, dates and views.
        augment: Distribution of the views; ``data_mode`` decides whether the crop comes first.
        replace_dates: Draw dates with replacement, as the original does.
        on_bad_patch: Raise an error or skip to the next sample, listed in ``log_dir``.
        image_list: File that restricts the pictures, see ``ImageDataset``.
        log_dir: Folder of ``bad_patches.txt``; None writes none. May be set until training starts.

    Attributes:
        mode: The chosen ``DataMode``.
        dataset: Patches; exists after ``setup``.
        input_spec: Bands, stretch and normalisation of the patches; exists after ``setup``.
    """

    dataset: SecoDataset | ImageDataset
    input_spec: InputSpec

    def __init__(
        self,
        data_dir: Path,
        data_mode: str,
        *,
        bands: Sequence[str],
        batch_size: int,
        num_workers: int,
        seed: int,
        augment: AugmentConfig,
        replace_dates: bool,
        on_bad_patch: OnBadPatch,
        image_list: Path | None,
        log_dir: Path | None,
    ) -> None:
        super().__init__()
        self.data_dir = data_dir
        self.data_mode = data_mode
        self.mode = DATA_MODES[data_mode]
        self.bands = tuple(bands)
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.augment_config = replace(augment, crop_first=self.mode.crop_first)
        self.replace_dates = replace_dates
        self.on_bad_patch = on_bad_patch
        self.image_list = image_list
        self.log_dir = log_dir

    def setup(self, stage: str | None = None) -> None:
        if hasattr(self, "dataset"):  # the script asks for the bands before Lightning calls this
            return
        self.dataset = self._seco() if is_seco(self.data_dir) else self._pictures()
        self.input_spec = self.dataset.input_spec
        self._augment = Augment(self.input_spec, self.augment_config)

    def steps_per_epoch(self, world_size: int) -> int:
        """Return the number of full batches of each process; none at all is a ``UserError``."""
        num_samples = len(self.dataset)
        steps = num_samples // (self.batch_size * world_size)
        if steps == 0:
            raise UserError(
                f"{self.data_dir} has {num_samples} samples, fewer than one batch of "
                f"{self.batch_size}{f' in each of {world_size} processes' * (world_size > 1)}: "
                "lower --batch_size"
            )
        return steps

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        trainer = self.trainer
        assert trainer is not None  # Lightning calls this
        world_size = trainer.world_size
        self.steps_per_epoch(world_size)
        self._bad_patches = BadPatchList(len(self.dataset), self.log_dir)
        sampler = SeededSampler(
            len(self.dataset),
            self.seed,
            # trainer.current_epoch lags behind when a resumed run starts.
            epoch=lambda: trainer.fit_loop.epoch_progress.current.processed,  # type: ignore[attr-defined]
            rank=trainer.global_rank,
            world_size=world_size,
        )
        return DataLoader(
            _ErrorsAsSamples(self.dataset),
            self.batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=_collate,
            drop_last=True,  # as the original; the queue and batch norm see full batches only
            pin_memory=trainer.strategy.root_device.type == "cuda",
            persistent_workers=self.num_workers > 0,
        )

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Take out what is not for the device: an error, or the names of bad patches."""
        if not self._is_training():
            return batch
        if "error" in batch:
            raise UserError(batch["error"])
        self._bad_patches.add(batch.pop("bad"))
        return batch

    def on_after_batch_transfer(
        self, batch: Any, dataloader_idx: int
    ) -> tuple[Tensor, list[Tensor]] | Any:
        """Turn uint8 patches (B, T, C, H, W) into the query and a list of keys.

        Each is of shape (B, C, crop_size, crop_size), normalised, on the device of the patches.
        """
        if not self._is_training():
            return batch
        patches = batch["patches"]
        keys = sample_keys(self.seed, batch["epoch"], batch["index"])
        augment = self._augment.to(patches.device)
        img_q, *img_k = (
            augment(patches[:, view.date], keys, stream, view.synthetic)
            for stream, view in enumerate(self.mode.views)
        )
        return img_q, img_k

    def _is_training(self) -> bool:
        return self.trainer is not None and self.trainer.training

    def _seco(self) -> SecoDataset:
        if self.image_list is not None:
            raise UserError(f"--image_list is for pictures, but {self.data_dir} holds SeCo patches")
        return SecoDataset(
            self.data_dir,
            self.bands,
            self.mode.num_dates,
            every_date=self.mode.every_date,
            replace=self.replace_dates,
            seed=self.seed,
            on_bad_patch=self.on_bad_patch,
        )

    def _pictures(self) -> ImageDataset:
        dataset = ImageDataset(
            self.data_dir, image_list=self.image_list, on_bad_patch=self.on_bad_patch
        )
        _refuse_patches(dataset)
        if not self.mode.every_date:
            raise UserError(
                f"--data_mode {self.data_mode} needs {self.mode.num_dates} dates of each place, "
                f"but {self.data_dir} holds pictures: take --data_mode moco"
            )
        if self.bands != RGB_BANDS:
            raise UserError(f"{self.data_dir} holds pictures, which have no --bands to choose")
        return dataset


def is_seco(data_dir: Path) -> bool:
    """Tell ``<place>/<scene>/<band>.tif`` from everything else."""
    if not data_dir.is_dir():
        return False
    return any(_is_band(path.as_posix()) for path in data_dir.glob("[!.]*/[!.]*/*.tif"))


def _refuse_patches(dataset: ImageDataset) -> None:
    """Stop where bands of SeCo patches would be taken for grey pictures."""
    patch = next((name for name in dataset.names if _is_band(name)), None)
    if patch is None:
        return
    if not dataset.root.is_dir():
        raise UserError(f"{dataset.root} is a zip of SeCo patches: unpack it first")
    raise UserError(
        f"{dataset.root} holds SeCo patches such as {patch}: "
        "--data_dir takes the folder of the places, for PLACE/SCENE/B4.tif"
    )


def _is_band(name: str) -> bool:
    path = PurePosixPath(name)
    return path.suffix == ".tif" and path.stem in RESOLUTION_M


class _ErrorsAsSamples(Dataset[dict[str, Any]]):
    """Hands a user's error to the main process as data: a worker would wrap it in its traceback."""

    def __init__(self, dataset: SecoDataset | ImageDataset) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        try:
            return self._dataset[key]
        except UserError as error:
            return {"error": str(error)}


def _collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Stack samples to tensors, lists of bad patches to one list; an error replaces the batch."""
    for sample in samples:
        if "error" in sample:
            return sample
    names = [name for sample in samples for name in sample.pop("bad")]
    batch: dict[str, Tensor] = default_collate(samples)
    return batch | {"bad": names}

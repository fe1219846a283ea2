"""From stored patches to the views of a training step, in the three modes of SeCo."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningDataModule
from torch import Tensor

from datasets.bands import RGB_BANDS, with_ndvi
from datasets.seco.bad_patches import BadPatchList, ConstantPatches, OnBadPatch
from datasets.seco.data_modes import DATA_MODES
from datasets.seco.patches import SecoPatches, day_of
from datasets.seco.samples import PatchDataset
from datasets.store.litdata import StreamedPlaces
from datasets.store.loader import Cache, open_loader
from datasets.store.manifest import PICTURE_BANDS
from datasets.store.open import open_patches
from datasets.store.reader import PackedStore
from utils.augment_config import AugmentConfig
from utils.cli import shorter_queue
from utils.data import SeededSampler, batches_done, epoch_of, sample_keys
from utils.distributed import exchange, shared_permutation, to_device
from utils.errors import UserError
from utils.input_spec import InputSpec
from utils.stored_values import add_ndvi, stored_bands
from utils.transforms import Augment


class SecoDataModule(LightningDataModule):
    """Read SeCo patches, or in mode moco any pictures, and make views of them on the device.

    The subclasses have the names of the original, and one data mode each. With several processes,
    the ``Trainer`` needs ``use_distributed_sampler=False``.

    Args:
        data_dir: SeCo folder or zip, packed store, or LitData chunks in a folder or bucket; in mode
            moco also a folder or zip of pictures.
        bands: Bands in channel order, and perhaps NDVI, which is computed from B8 and B4; None for
            B4, B3, B2 (red, green, blue), which is also what pictures have.
        batch_size: Samples per step and process, at least 1.
        num_workers: Worker processes that read, 0 reads in this one; threads for a packed store.
        seed: Seed of order, dates and views.
        data_mode: Key of ``DATA_MODES``; None for that of the class.
        augment: Distribution of the views; ``data_mode`` decides whether the crop comes first.
        replace_dates: Draw dates with replacement, as the original does.
        on_bad_patch: Raise an error, or skip to the next sample and list the patch in ``log_dir``.
        image_list: File with the names of the pictures to use, see ``Pictures``.
        log_dir: Folder of ``bad_patches.txt``; None writes none. May be set until training starts.
        cache: Where a packed store is read from: its files ("mmap"), memory, or the GPU's memory.
        shuffle_keys: Encode keys in other batches, or groups of batch norm, than their queries.

    Attributes:
        mode: The chosen ``DataMode``.
        dataset: Patches; exists after ``setup``.
        input_spec: Bands, stretch and normalisation of the patches; exists after ``setup``.

    Raises:
        UserError: ``setup`` refuses data that do not fit the mode, the bands or the cache.
    """

    default_mode = "seco"
    dataset: PatchDataset
    input_spec: InputSpec

    def __init__(
        self,
        data_dir: Path | str,
        bands: Sequence[str] | None = None,
        batch_size: int = 32,
        num_workers: int = 16,
        seed: int = 42,
        *,
        data_mode: str | None = None,
        augment: AugmentConfig = AugmentConfig(),  # noqa: B008 - it is frozen
        replace_dates: bool = False,
        on_bad_patch: OnBadPatch = "raise",
        image_list: Path | None = None,
        log_dir: Path | None = None,
        cache: Cache = "mmap",
        shuffle_keys: bool = False,
    ) -> None:
        super().__init__()
        self.data_dir = Path(data_dir)
        self.data_mode = data_mode or self.default_mode
        self.mode = DATA_MODES[self.data_mode]
        self.bands = RGB_BANDS if bands is None else tuple(bands)
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.augment_config = replace(augment, crop_first=self.mode.crop_first)
        self.replace_dates = replace_dates
        self.on_bad_patch = on_bad_patch
        self.image_list = image_list
        self.log_dir = log_dir
        self.cache = cache
        self.shuffle_keys = shuffle_keys
        self._constant_patches = ConstantPatches()
        self._are_dates_known = False
        self._shares_of_chunks = 0  # processes that LitData chunks are shared out to
        self._saved_shares: int | None = None  # those of the checkpoint that is resumed

    @property
    def num_keys(self) -> int:
        """Key views of a sample, each with an embedding space of its own."""
        return self.mode.emb_spaces

    @property
    def num_loaders(self) -> int:
        """Worker processes that decode files; the threads that read a packed store only copy."""
        return 0 if isinstance(self.dataset.source, PackedStore) else self.num_workers

    def setup(self, stage: str | None = None) -> None:
        if hasattr(self, "dataset"):  # the script needs the bands before Lightning calls this
            return
        source = open_patches(self.data_dir, stored_bands(self.bands), self.image_list)
        is_pictures = source.bands == PICTURE_BANDS
        if is_pictures and not self.mode.every_date:
            raise UserError(
                f"--data_mode {self.data_mode} needs {self.mode.num_dates} dates of each place, "
                f"but {self.data_dir} holds pictures: use --data_mode moco"
            )
        if self.cache != "mmap" and not isinstance(source, PackedStore):
            raise UserError(
                f"--cache {self.cache} is for packed stores, which {self.data_dir} is not: pack it "
                "with datasets/seco_packed.py"
            )
        self.dataset = PatchDataset(
            source,
            self.mode.num_dates,
            every_date=self.mode.every_date,
            replace=self.replace_dates,
            seed=self.seed,
            on_bad_patch=self.on_bad_patch,
        )
        self.input_spec = with_ndvi(source.input_spec, self.bands)
        self._augment = Augment(self.input_spec, self.augment_config)

    def hints(self, num_negatives: int, world_size: int = 1) -> list[str]:
        """Return what makes the training slower or worse than it could be; exists after ``setup``.

        Args:
            num_negatives: Keys in the queue.
            world_size: Processes that train together.
        """
        hints = []
        if num_negatives >= (count := len(self.dataset)):
            better = shorter_queue(count, self.batch_size * world_size, world_size)
            hints.append(
                f"--num_negatives {num_negatives} is not below the {count} samples: each meets its "
                f"own keys of earlier epochs as negatives, and the loss can rise; use {better}"
            )
        # A sample is a TIFF per band and date, slower to open than to read. A picture is one file,
        # of 64 px decoded in about half a millisecond, and its views take several.
        if isinstance(self.dataset.source, SecoPatches):
            hints.append(
                f"{self.data_dir} is read from single files, which is slow: pack it once with "
                "datasets/seco_packed.py, and give the store to --data_dir"
            )
        _, height, width = self.dataset.source.patch_shape
        size, enough = self.augment_config.crop_size, min(height, width)
        if size > enough:
            hints.append(
                f"--crop_size {size} is more than the {width} x {height} pixels of the patches: "
                f"crops are enlarged, which costs time and adds no detail; {enough} is enough"
            )
        return hints

    def facts(self, world_size: int) -> dict[str, int]:
        """Return what a report needs to know of the training; exists after ``setup``.

        Args:
            world_size: Processes that train together.
        """
        samples_per_step = self.batch_size * world_size
        counts = {"samples": len(self.dataset), "samples_per_step": samples_per_step}
        return counts | {"processes": world_size}

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

    def train_dataloader(self) -> Iterable[dict[str, Any]]:
        trainer = self.trainer
        assert trainer is not None  # Lightning calls this
        self.steps_per_epoch(trainer.world_size)
        log_dir = self.log_dir if trainer.is_global_zero else None
        self._bad_patches = BadPatchList(len(self.dataset), log_dir)
        source = self.dataset.source
        shares: dict[str, Any] = {
            "epoch": lambda: epoch_of(trainer),
            "done": lambda: batches_done(trainer) * self.batch_size,
            "rank": trainer.global_rank,
            "world_size": trainer.world_size,
        }
        sampler = SeededSampler(len(self.dataset), self.seed, **shares)
        self._shares_of_chunks = isinstance(source, StreamedPlaces) * trainer.world_size
        if batches_done(trainer) and self._saved_shares != self._shares_of_chunks:
            raise UserError(
                "the checkpoint was written within an epoch, whose other samples come in another "
                "order: resume it with LitData chunks only if it had them, and by as many processes"
            )
        if isinstance(source, StreamedPlaces):
            from datasets.store.litdata_loader import ChunkOrder  # needs LitData

            sampler = ChunkOrder(source.first_samples(self.mode.every_date), self.seed, **shares)
        device = trainer.strategy.root_device
        return open_loader(
            self.dataset, sampler, self.batch_size, self.num_workers, device, self.cache
        )

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Remove what the device does not need."""
        if not self._is_training():
            return batch
        bad = batch.pop("bad")
        self._bad_patches.add(bad)
        self._constant_patches.add(batch.pop("constant"))
        self._samples = batch.pop("epoch"), batch.pop("index")
        # Another sample replaces a bad one: its dates are not those of the index.
        self._are_dates_known = not bad
        return batch

    def dates(self, count: int) -> list[list[str]]:
        """Return for each view the days of the first samples of the current batch, or ""."""
        if not self._are_dates_known:
            return [[""] * count for _ in self.mode.views]
        patches = self.dataset.draw(*(numbers[:count] for numbers in self._samples))
        days = [[day_of(self.dataset.source.name(p)) for p in row] for row in patches.tolist()]
        return [[row[view.date] for row in days] for view in self.mode.views]

    def on_after_batch_transfer(
        self, batch: Any, dataloader_idx: int
    ) -> tuple[Tensor, list[Tensor], Tensor | None] | Any:
        """Turn uint8 patches (B, T, C, H, W) into the query, a list of keys, and their order.

        Views are of shape (B, C, crop_size, crop_size), normalised, on the device of the patches.
        With ``shuffle_keys`` the patches of the keys are first exchanged between all processes, by
        a permutation that is the order; else it is None.
        """
        if not self._is_training():
            return batch
        trainer = self.trainer
        assert trainer is not None
        patches = add_ndvi(batch["patches"], self.bands)
        augment, (query, *views) = self._augment.to(patches.device), self.mode.views
        keys = sample_keys(self.seed, *self._samples)  # views are drawn on the CPU, and uploaded
        of_query, *of_keys = augment.draw_each(keys, self.mode.streams, patches.shape[-2:])
        img_q = augment.make(patches[:, query.date], of_query)
        order = None
        if self.shuffle_keys:
            order = shared_permutation(len(patches) * trainer.world_size, trainer.global_step)
            patches = exchange(patches, order)
            of_keys = [draws.exchanged(order, patches.device) for draws in of_keys]
            order = to_device(order, patches.device)
        img_k = [
            augment.make(patches[:, view.date], draws)
            for view, draws in zip(views, of_keys, strict=True)
        ]
        return img_q, img_k, order

    def state_dict(self) -> dict[str, Any]:
        """Store what the order of the samples and the schedule of a run depend on."""
        assert self.trainer is not None
        samples_per_step = self.batch_size * self.trainer.world_size
        return {"samples_per_step": samples_per_step, "shares_of_chunks": self._shares_of_chunks}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._saved_shares = state_dict.get("shares_of_chunks")

    def _is_training(self) -> bool:
        return self.trainer is not None and self.trainer.training


class SeasonalContrastBasicDataModule(SecoDataModule):
    """MoCo-v2: query and key are two views of one date."""

    default_mode = "moco"


class SeasonalContrastTemporalDataModule(SecoDataModule):
    """MoCo-v2+TP: query and key are views of two dates of a place."""

    default_mode = "moco_tp"


class SeasonalContrastMultiAugDataModule(SecoDataModule):
    """SeCo: a query, and a key for each of three embedding spaces."""

    default_mode = "seco"


SeasonalContrastBaseDataModule = SecoDataModule

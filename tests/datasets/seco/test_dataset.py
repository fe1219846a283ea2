"""The data sets of the original against a restatement of it, and against the training's batches."""

import json
import shutil
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import transforms

from datasets.seco.data_modes import DATA_MODES
from datasets.seco.samples import PatchDataset
from datasets.seco_dataset import (
    ALL_BANDS,
    QUANTILES,
    RGB_BANDS,
    SeasonalContrastBase,
    SeasonalContrastBasic,
    SeasonalContrastMultiAug,
    SeasonalContrastTemporal,
)
from utils.augment_config import AugmentConfig
from utils.data import sample_keys
from utils.errors import UserError
from utils.input_spec import SECO_SPEC
from utils.transforms import Augment

EVERY: list[type[SeasonalContrastBase]] = [
    SeasonalContrastBasic,
    SeasonalContrastTemporal,
    SeasonalContrastMultiAug,
]
# Typed again from the original's file.
LOW, HIGH = {"B4": 0, "B3": 2, "B2": 3}, {"B4": 129, "B3": 103, "B2": 88}


def read_as_original(folder: Path, bands: tuple[str, ...] = ("B4", "B3", "B2")) -> np.ndarray:
    """Restate the original: each band stretched between its quantiles and truncated, (H, W, C)."""
    channels = []
    for band in bands:
        with rasterio.open(folder / f"{band}.tif") as file:
            stretched = (file.read(1).astype(float) - LOW[band]) / (HIGH[band] - LOW[band])
        channels.append(np.clip(stretched * 255, 0, 255).astype(np.uint8))
    return np.dstack(channels)


def dates_of(place: Path) -> list[Path]:
    return sorted(path for path in place.iterdir() if path.is_dir())


def places_of(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir())


def dates_shown(view: Any, pictures: list[np.ndarray]) -> list[int]:
    return [n for n, picture in enumerate(pictures) if np.array_equal(np.asarray(view), picture)]


@pytest.fixture
def flat_root(tmp_path: Path) -> Path:
    """One place of three dates; all pixels of date n hold 20 n + 20."""
    for date in range(3):
        folder = tmp_path / "flat" / "0" / f"date{date}"
        folder.mkdir(parents=True)
        for band in RGB_BANDS:
            Image.fromarray(np.full((32, 32), 20 * date + 20, np.uint8)).save(
                folder / f"{band}.tif"
            )
    return tmp_path / "flat"


def flat_date(view: Tensor) -> int:
    """Return which date of ``flat_root`` a view shows that was not changed."""
    red = 255 * (float(view[0, 0, 0]) * 0.229 + 0.485)  # without ImageNet's normalisation
    return round((red / 255 * 129 - 20) / 20)


def test_quantiles_have_the_names_and_values_of_the_original() -> None:
    assert QUANTILES == {"min_q": LOW, "max_q": HIGH}
    assert RGB_BANDS == ("B4", "B3", "B2")
    assert len(ALL_BANDS) == 12


def test_basic_has_every_date_of_every_place_as_the_original_reads_it(seco_root: Path) -> None:
    dataset = SeasonalContrastBasic(seco_root)
    folders = [date for place in places_of(seco_root) for date in dates_of(place)]
    assert len(dataset) == len(folders) == 24
    for index, folder in enumerate(folders):
        image = dataset[index]
        assert isinstance(image, Image.Image)
        np.testing.assert_array_equal(np.asarray(image), read_as_original(folder))
    assert dataset[-1] == dataset[23]
    with pytest.raises(IndexError):
        dataset[24]


def test_bands_come_in_the_requested_order_and_one_band_is_a_grey_image(seco_root: Path) -> None:
    folder = dates_of(places_of(seco_root)[0])[0]
    for bands in (("B2", "B4", "B3"), ("B2", "B3"), ("B3",)):
        image = SeasonalContrastBasic(seco_root, bands)[0]
        expected = np.squeeze(read_as_original(folder, bands))
        np.testing.assert_array_equal(np.asarray(image), expected)
        assert isinstance(image, np.ndarray if len(bands) == 2 else Image.Image)


def test_a_zip_gives_what_its_folder_gives(seco_root: Path, tmp_path: Path) -> None:
    archive = shutil.make_archive(str(tmp_path / "seco"), "zip", seco_root)
    samples = []
    for root in (seco_root, archive):
        torch.manual_seed(5)
        samples.append(SeasonalContrastMultiAug(root)[2])
    flat = [[q, *keys] for q, keys in samples]
    assert all(torch.equal(view, other) for view, other in zip(*flat, strict=True))


def test_temporal_gives_two_different_dates_of_the_place(seco_root: Path) -> None:
    dataset = SeasonalContrastTemporal(seco_root)
    assert len(dataset) == 6
    pictures = [read_as_original(date) for date in dates_of(places_of(seco_root)[4])]
    pairs = set()
    for _ in range(100):
        q, k = dataset[4]
        (first,), (second,) = dates_shown(q, pictures), dates_shown(k, pictures)
        pairs.add((first, second))
    assert pairs == {(a, b) for a in range(4) for b in range(4) if a != b}


@pytest.mark.difference("data-sets")
def test_transform_is_applied_to_each_view_in_order(seco_root: Path) -> None:
    for dataset_class, count in zip(EVERY, (1, 2, 4), strict=True):
        seen: list[Any] = []

        def record(view: Any, seen: list[Any] = seen) -> int:
            seen.append(view)
            return len(seen)

        sample = dataset_class(seco_root, transform=record)[0]
        assert sample == {1: 1, 2: (1, 2), 4: (1, [2, 3, 4])}[count]
        kind = Tensor if count == 4 else Image.Image
        assert all(isinstance(view, kind) for view in seen)


def test_transforms_of_torchvision_work(seco_root: Path) -> None:
    to_tensor = transforms.Compose([transforms.RandomResizedCrop(16), transforms.ToTensor()])
    q, k = SeasonalContrastTemporal(seco_root, transform=to_tensor)[0]
    image = SeasonalContrastBasic(seco_root, transform=to_tensor)[0]
    assert [view.shape for view in (q, k, image)] == [(3, 16, 16)] * 3
    q, keys = SeasonalContrastMultiAug(seco_root, transform=transforms.Resize(32))[0]
    assert [view.shape for view in (q, *keys)] == [(3, 32, 32)] * 4


def test_dates_of_multi_aug_are_those_of_figure_2(flat_root: Path) -> None:
    """A crop leaves a flat patch as it is: what is plain shows its date."""

    class Unchanged(SeasonalContrastMultiAug):
        augment_config = AugmentConfig(
            crop_size=8, jitter_prob=0, grayscale_prob=0, blur_prob=0, flip_prob=0
        )

    dataset = Unchanged(flat_root)
    triples = set()
    for _ in range(60):
        q, keys = dataset[0]
        t0, t1, t2, again = (flat_date(view) for view in (q, *keys))
        assert again == t0
        triples.add((t0, t1, t2))
    assert triples == set(permutations(range(3)))


def test_only_k0_and_k2_are_changed_by_more_than_a_crop(flat_root: Path) -> None:
    class Bright(SeasonalContrastMultiAug):
        augment_config = AugmentConfig(crop_size=8, jitter_prob=1, grayscale_prob=0, blur_prob=0)

    dataset = Bright(flat_root)
    reds = np.array([20 * date + 20 for date in range(3)]) / 129
    changed = np.zeros(4, int)
    for _ in range(20):
        q, keys = dataset[0]
        shown = [float(view[0, 0, 0]) * 0.229 + 0.485 for view in (q, *keys)]
        changed += [float(abs(reds - red).min()) > 1 / 255 for red in shown]
    assert changed[0] == changed[2] == 0
    assert min(changed[1], changed[3]) > 10


def test_views_are_those_that_the_training_makes_of_the_same_draw(
    seco_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = SeasonalContrastMultiAug(seco_root)
    assert len(dataset) == 6
    monkeypatch.setattr(torch, "randint", lambda *_: torch.tensor(7))
    q, keys = dataset[3]
    assert [view.shape for view in (q, *keys)] == [(3, 224, 224)] * 4
    training: PatchDataset = dataset.samples
    patches = training[7, 3]["patches"]
    key = sample_keys(0, torch.tensor([7]), torch.tensor([3]))
    augment = Augment(SECO_SPEC, AugmentConfig())
    for stream, (view, made) in enumerate(zip(DATA_MODES["seco"].views, (q, *keys), strict=True)):
        expected = augment(patches[None, view.date], key, stream, view.synthetic)[0]
        torch.testing.assert_close(made, expected, rtol=0, atol=0)


def test_the_global_generator_repeats_a_sample(seco_root: Path) -> None:
    dataset = SeasonalContrastMultiAug(seco_root)
    queries = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        queries.append(dataset[0][0])
    assert torch.equal(queries[0], queries[1])
    assert not torch.equal(queries[1], queries[2])
    assert not torch.equal(queries[2], dataset[0][0])


def test_bands_without_quantiles_are_refused_at_once(seco_root: Path) -> None:
    for dataset_class in EVERY:
        with pytest.raises(UserError, match=r"no quantiles for B1 B5 .*run `python datasets/seco_"):
            dataset_class(seco_root, ALL_BANDS)


def test_all_bands_with_measured_quantiles(seco_root: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(seco_root, tmp_path / "copy"))
    measured = {"quantiles": {band: [1, 99] for band in ALL_BANDS}}
    (root / "quantiles.json").write_text(json.dumps(measured))
    image = SeasonalContrastBasic(root, ALL_BANDS)[0]
    assert (image.shape, image.dtype) == ((48, 48, 12), np.uint8)
    rgb = [ALL_BANDS.index(band) for band in RGB_BANDS]
    folder = dates_of(places_of(root)[0])[0]
    np.testing.assert_array_equal(image[..., rgb], read_as_original(folder))
    dataset = SeasonalContrastMultiAug(root, ALL_BANDS)
    q, keys = dataset[0]
    assert [view.shape for view in (q, *keys)] == [(12, 224, 224)] * 4
    drawn = dataset.plot((q, keys)).axes[0].images[0].get_array()
    assert drawn is not None
    assert drawn.shape == (224, 224, 3)


def test_too_few_dates_and_missing_places_are_refused_at_once(
    seco_root: Path, tmp_path: Path
) -> None:
    place = places_of(seco_root)[0]
    for date in dates_of(place)[:2]:
        shutil.copytree(date, tmp_path / "seco" / "0" / date.name)
    assert len(SeasonalContrastTemporal(tmp_path / "seco")) == 1
    with pytest.raises(
        UserError, match="place 0 has 2 dates, but a sample needs 3 of each place: remove"
    ):
        SeasonalContrastMultiAug(tmp_path / "seco")
    with pytest.raises(UserError, match="is missing"):
        SeasonalContrastBasic(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "transform",
    [None, transforms.ToTensor(), transforms.Grayscale()],
    ids=["pil", "tensor", "grey"],
)
@pytest.mark.parametrize("dataset_class", EVERY[:2])
def test_images_are_plotted_as_they_look(
    seco_root: Path, dataset_class: Callable[..., Any], transform: Callable[[Any], Any] | None
) -> None:
    dataset = dataset_class(seco_root, transform=transform)
    sample = dataset[0]
    figure = dataset.plot(sample)
    assert isinstance(figure, Figure)
    view = sample[0] if isinstance(sample, tuple) else sample
    is_tensor = isinstance(view, Tensor)
    expected = view.permute(1, 2, 0).numpy() if is_tensor else np.asarray(view) / 255
    np.testing.assert_allclose(np.asarray(figure.axes[0].images[0].get_array()), expected)


@pytest.mark.parametrize("bands", [("B4", "B3", "B2"), ("B2", "B3", "B4"), ("B2", "B3"), ("B4",)])
def test_views_are_plotted_without_normalisation_and_named(
    seco_root: Path, bands: tuple[str, ...]
) -> None:
    dataset = SeasonalContrastMultiAug(seco_root, bands)
    q, keys = dataset[0]
    figure = dataset.plot((q, keys))
    titles = [axes.get_title().split("\n")[0] for axes in figure.axes]
    assert titles == ["query", "key 0: all", "key 1: season", "key 2: synthetic"]
    picture = dataset.input_spec.std[0] * q[0].numpy() + dataset.input_spec.mean[0]
    drawn = np.asarray(figure.axes[0].images[0].get_array())
    shown = drawn[..., 2 if bands == ("B2", "B3", "B4") else 0] if len(bands) == 3 else drawn
    np.testing.assert_allclose(shown, np.clip(picture, 0, 1), atol=1e-6)


def test_workers_of_a_loader_draw_different_views(flat_root: Path) -> None:
    dataset = SeasonalContrastMultiAug(flat_root)
    loader = DataLoader(dataset, batch_size=2, sampler=[0] * 8, num_workers=2)
    batches = list(loader)
    assert all(len(keys) == 3 for _, keys in batches)
    views = torch.cat([torch.cat([q, *keys]) for q, keys in batches])
    assert views.shape == (32, 3, 224, 224)
    changed = torch.cat([keys[0] for _, keys in batches]).flatten(1)
    assert len(changed.unique(dim=0)) > 4  # of 8, some changed by a flip only

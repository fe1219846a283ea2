"""The pre-training of the original by its own names, used as its script used them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pytorch_lightning import Trainer

from datasets import seco_datamodule
from datasets.seco_dataset import QUANTILES, SeasonalContrastBasic, normalize, read_image
from datasets.seco_utils import compute_quantiles
from models.moco2_module import MocoV2
from tests.references.recorded_batches import CALM
from utils.data import InfiniteDataLoader, random_subset
from utils.errors import UserError
from utils.transforms import ApplyN


@pytest.mark.parametrize(("name", "num_keys"), [("Basic", 1), ("Temporal", 1), ("MultiAug", 3)])
def test_data_modules_train_the_model_in_a_plain_trainer(
    seco_root: Path, name: str, num_keys: int
) -> None:
    data_module = getattr(seco_datamodule, f"SeasonalContrast{name}DataModule")
    datamodule = data_module(data_dir=str(seco_root), batch_size=3, num_workers=0)
    assert datamodule.num_keys == num_keys
    model = MocoV2("resnet18_slim", emb_dim=8, num_negatives=6, emb_spaces=datamodule.num_keys)
    before = model.encoder_q.get_parameter("0.weight").detach().clone()
    trainer = Trainer(**CALM, max_epochs=1, limit_train_batches=2)
    trainer.fit(model, datamodule=datamodule)
    assert trainer.global_step == 2
    assert model.queue.shape == (num_keys, 8, 6)
    assert not torch.equal(model.encoder_q.get_parameter("0.weight"), before)


def test_the_base_has_the_constructor_of_the_original(seco_root: Path) -> None:
    base = seco_datamodule.SeasonalContrastBaseDataModule(str(seco_root), ["B2"], 5, 2, 7)
    assert (base.bands, base.batch_size, base.num_workers, base.seed) == (("B2",), 5, 2, 7)
    default = seco_datamodule.SeasonalContrastTemporalDataModule(seco_root)
    assert (default.bands, default.batch_size) == (("B4", "B3", "B2"), 32)
    assert (default.num_workers, default.seed) == (16, 42)


def test_two_views_of_an_image_come_from_a_loader_that_keeps_its_workers(seco_root: Path) -> None:
    transform = ApplyN(lambda image: torch.from_numpy(np.array(image)), n=2)
    dataset = SeasonalContrastBasic(seco_root, transform=transform)
    loader = InfiniteDataLoader(dataset, batch_size=4, shuffle=True, num_workers=1)
    for _ in range(2):
        batches = list(loader)
        assert [view.shape for view in batches[0]] == [(4, 48, 48, 3)] * 2
        assert len(batches) == 6
    assert loader.persistent_workers


@pytest.mark.parametrize("bands", [("B4", "B3", "B2"), ("B3",)])
def test_an_image_is_read_as_the_data_set_reads_it(seco_root: Path, bands: tuple[str, ...]) -> None:
    folder = next(path for path in sorted(seco_root.glob("*/*")) if path.is_dir())
    image = read_image(folder, bands, QUANTILES)
    assert isinstance(image, Image.Image)
    assert image == SeasonalContrastBasic(seco_root, bands)[0]
    with pytest.raises(UserError, match=r"B10\.tif is missing"):
        read_image(folder, ["B10"])


def test_stored_values_are_stretched_between_the_quantiles_and_truncated() -> None:
    stored = np.array([0, 2, 3, 53, 103, 200], np.uint8)
    assert normalize(stored, 3.0, 103.0).tolist() == [0, 0, 0, 127, 255, 255]  # 127.5


def test_quantiles_are_measured_by_the_original_call(seco_root: Path) -> None:
    quantiles = compute_quantiles(root=str(seco_root), bands=["B8", "B3"], num_samples=100)
    for key, share in (("min_q", 0.02), ("max_q", 0.98)):
        assert list(quantiles[key]) == ["B8", "B3"]
        for band, measured in quantiles[key].items():
            files = list(seco_root.glob(f"*/*/{band}.tif"))
            pixels = np.concatenate([np.asarray(Image.open(path)).ravel() for path in files])
            assert measured == np.quantile(pixels, share, method="inverted_cdf")
    with pytest.raises(UserError, match="has no band B10: its bands are B1 B2"):
        compute_quantiles(seco_root, ["B10"])


@pytest.mark.difference("subset")
def test_a_random_subset_has_a_share_of_the_samples_once() -> None:
    dataset: Any = [10 * number for number in range(30)]
    drawn = random_subset(dataset, 0.5, seed=3)
    samples = [drawn[index] for index in range(len(drawn))]
    assert len(samples) == len(set(samples)) == 15
    assert set(samples) < set(dataset)
    assert drawn.indices == random_subset(dataset, 0.5, seed=3).indices
    assert drawn.indices != random_subset(dataset, 0.5, seed=4).indices

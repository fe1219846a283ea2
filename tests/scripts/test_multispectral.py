"""More than red, green and blue: from files through a training to the evaluations."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import main_bigearthnet
import main_embed
import main_eurosat
from datasets import seco_packed, seco_utils
from datasets.bands import ALL_BANDS
from datasets.mini_earth import write_eurosat
from datasets.store.reader import PackedStore
from models.presets import PRESETS
from tests.references.pretraining import pretrain
from tests.references.recorded_batches import fit, make
from tests.references.script import as_flags
from utils.augment_config import AugmentConfig
from utils.errors import UserError
from utils.stored_values import NDVI, ndvi

ECO = PRESETS["seco_eco"]["bands"]


@pytest.fixture(scope="module")
def store(seco_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 12 bands of the miniature Earth, packed, with their quantiles."""
    path = tmp_path_factory.mktemp("packed") / "store"
    where = as_flags(data_dir=seco_root, save_path=path, num_workers=0)
    seco_packed.main([*where, "--bands", *ALL_BANDS])
    seco_utils.main(["--data_dir", str(path)])
    return path


@pytest.mark.difference("ndvi")
def test_views_have_the_ndvi_of_the_stored_bands(store: Path) -> None:
    """Queries and keys 1 are only cropped, here to the whole patch."""
    bands, whole = ("B4", NDVI, "B8"), AugmentConfig(crop_size=48, crop_scale=(1.0, 1.0))
    datamodule = make(store, bands=bands, augment=whole)
    _, recorder = fit(datamodule, 1)
    spec = datamodule.input_spec
    assert (spec.bands, spec.low[1], spec.high[1]) == (bands, 0, 255)
    source = PackedStore(store, ("B4", "B8"))
    patches = np.stack([source.read(patch) for patch in range(24)])
    red, near_infrared = torch.from_numpy(patches).unbind(1)
    stored = torch.stack([red, ndvi(near_infrared, red), near_infrared], 1).int()
    pictures = torch.stack([row[stored[:, n]] for n, row in enumerate(spec.stretch_table())], 1)
    expected = spec.normalize(pictures)
    assert stored[:, 1].max() > 100
    for img_q, (_, key_1, _), _ in recorder.batches:
        for view in (*img_q, *key_1):
            assert (expected - view).abs().amax((1, 2, 3)).min() < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("bands", [ALL_BANDS, ECO], ids=["12 bands", "seco_eco"])
def test_many_bands_train_and_are_evaluated(
    bands: list[str], store: Path, bigearthnet_root: Path, tmp_path: Path
) -> None:
    flags = ["--preset", "seco_eco"] if NDVI in bands else ["--bands", *bands]
    run_dir = pretrain(store, tmp_path, *flags, "--max_epochs", "1")
    last = run_dir / "checkpoints/last.ckpt"
    checkpoint = torch.load(last, weights_only=True)
    spec = checkpoint["hyper_parameters"]["input_spec"]
    measured = json.loads((store / "quantiles.json").read_text())["quantiles"]
    assert spec["bands"] == list(bands)
    assert spec["unit"] == "reflectance"
    limits = dict(zip(spec["bands"], zip(spec["low"], spec["high"], strict=True), strict=True))
    assert limits["B4"] == (0, 129)
    assert limits["B8A"] == tuple(measured["B8A"])
    assert limits.get(NDVI, (0, 255)) == (0, 255)
    assert checkpoint["state_dict"]["encoder_q.0.weight"].shape[1] == len(bands)

    encoder = as_flags(backbone_type="pretrain", ckpt_path=last)
    probe = as_flags(method="lbfgs", num_seeds=1, num_workers=1, gpus=0, log_dir=tmp_path)
    write_eurosat(tmp_path / "tif", images_per_class=5, size=32, all_bands=True, num_workers=1)
    metrics = main_eurosat.main([*encoder, *probe, "--data_dir", str(tmp_path / "tif")])
    assert metrics["encoder"]["bands"] == list(bands)
    assert 0 <= metrics["test/accuracy"] <= 100
    metrics = main_bigearthnet.main([*encoder, *probe, "--data_dir", str(bigearthnet_root)])
    assert 0 < metrics["test/map_micro"] < 100
    found = tmp_path / "e.npz"
    main_embed.main([*encoder, *as_flags(data_dir=store, save_path=found, gpus=0)])
    assert found.exists()


def test_pictures_and_rgb_data_are_refused_for_ndvi(
    seco_root: Path, eurosat_root: Path, tmp_path: Path
) -> None:
    for data_dir, message in ((eurosat_root, "holds pictures"), (seco_root, "no quantiles for B5")):
        with pytest.raises(UserError, match=message):
            pretrain(data_dir, tmp_path, "--preset", "seco_eco")
    with pytest.raises(UserError, match="name them next to B4 B3 NDVI"):
        pretrain(seco_root, tmp_path, "--bands", "B4", "B3", "NDVI")
    where = as_flags(data_dir=seco_root, save_path=tmp_path / "store", num_workers=0)
    with pytest.raises(UserError, match=r"NDVI is computed .* leave it out"):
        seco_packed.main([*where, "--bands", "B8", "B4", "NDVI"])
    assert not list(tmp_path.iterdir())

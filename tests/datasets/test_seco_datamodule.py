"""Modes, order, workers, resuming and errors, seen from a training loop."""

import os
import shutil
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pytorch_lightning import Trainer
from torch import Tensor

from datasets import seco_datamodule
from datasets.bands import RGB_BANDS
from datasets.seco.bad_patches import BadPatchList
from datasets.seco.data_modes import DATA_MODES, View
from datasets.seco.patches import day_of
from datasets.seco.pictures import Pictures
from tests.references.recorded_batches import CALM, Batch, Recorder, assert_same, fit, make
from utils.augment_config import AugmentConfig
from utils.data import SeededSampler, sample_keys
from utils.errors import UserError, sentence_of


@pytest.fixture
def many_places(seco_root: Path, tmp_path: Path) -> Path:
    """101 places with one date each: one bad patch is less than 1 %. Linked, so replace files."""
    date = next(p for p in sorted(seco_root.glob("*/*")) if p.is_dir())
    for place in range(101):
        folder = tmp_path / "places" / f"{place:06}" / date.name
        folder.mkdir(parents=True)
        for band in RGB_BANDS:
            os.link(date / f"{band}.tif", folder / f"{band}.tif")
    return tmp_path / "places"


def break_band(root: Path, place: int) -> Path:
    path = next((root / f"{place:06}").glob("*/B3.tif"))
    path.unlink()
    return path


def test_modes_are_those_of_the_paper() -> None:
    plain, synthetic = False, True
    expected = {  # q, then k0, k1, ...; T is the synthetic transformation
        "moco": (1, True, [(0, synthetic), (0, synthetic)]),
        "moco_tp": (2, False, [(0, synthetic), (1, synthetic)]),
        "seco": (3, False, [(0, plain), (1, synthetic), (2, plain), (0, synthetic)]),
    }
    for name, (num_dates, every_date, views) in expected.items():
        mode = DATA_MODES[name]
        assert (mode.num_dates, mode.every_date) == (num_dates, every_date)
        assert mode.views == tuple(View(*view) for view in views)
    assert list(DATA_MODES) == list(expected)
    assert [mode.emb_spaces for mode in DATA_MODES.values()] == [1, 1, 3]
    # Section 3.2: Z0 is invariant to all transformations, Z1 to seasonal, Z2 to synthetic ones.
    names = {name: mode.space_names for name, mode in DATA_MODES.items()}
    assert names == {
        "moco": ["synthetic"],
        "moco_tp": ["all"],
        "seco": ["all", "season", "synthetic"],
    }
    assert DATA_MODES["seco"].view_labels == [
        "query\ndate t0",
        "key 0: all\ndate t1, augmented",
        "key 1: season\ndate t2",
        "key 2: synthetic\ndate t0, augmented",
    ]


@pytest.mark.parametrize("data_mode", DATA_MODES)
def test_dates_of_the_views_are_those_of_the_scenes(seco_root: Path, data_mode: str) -> None:
    datamodule = make(seco_root, data_mode)
    shown: list[list[list[str]]] = []

    class Shows(Recorder):
        def training_step(self, batch: Batch) -> Tensor:
            shown.append(datamodule.dates(2))
            return super().training_step(batch)

    Trainer(**CALM, max_epochs=1, use_distributed_sampler=False).fit(Shows(), datamodule)
    scenes = {path.name for path in seco_root.glob("*/*") if path.is_dir()}
    days = {f"{scene[:4]}-{scene[4:6]}-{scene[6:8]}" for scene in scenes}
    for views in shown:
        assert all(day in days for view in views for day in view)
        dates = [view.date for view in datamodule.mode.views]
        for sample in zip(*views, strict=True):
            assert len(set(sample)) == len(set(dates))  # the seasons of a place differ
            assert all(
                sample[0] == day for day, date in zip(sample, dates, strict=True) if not date
            )
    assert len(shown) >= 3


def test_days_are_read_from_names_of_scenes_only() -> None:
    # Places 001999 of SeCo-100K (torchgeo, pull request 1235), EuroSAT.
    assert day_of("001999/20200713T093041_20200713T093044_T34TDN") == "2020-07-13"
    assert day_of("AnnualCrop/AnnualCrop_1.jpg") == ""
    assert day_of("7/2") == ""  # LitData's places and dates


@pytest.mark.parametrize(("crop_size", "count"), [(16, 0), (48, 0), (49, 1)])
def test_hints_name_crops_that_are_larger_than_the_patches(
    seco_root: Path, crop_size: int, count: int
) -> None:
    datamodule = make(seco_root, augment=AugmentConfig(crop_size=crop_size))
    datamodule.setup("fit")
    hints = "\n".join(datamodule.hints(num_negatives=3))
    assert hints.count("crop_size 49 is more than the 48 x 48 pixels") == count
    assert "--num_negatives" not in hints
    longer = "".join(datamodule.hints(6, world_size=2))
    assert "--num_negatives 6 is not below the 6 samples" in longer
    assert "use --num_negatives 4" in longer  # two samples of each process fit into a queue
    assert datamodule.facts(4) == {"samples": 6, "samples_per_step": 8, "processes": 4}
    assert "datasets/seco_packed.py" in hints


@pytest.mark.parametrize("data_mode", DATA_MODES)
def test_each_view_takes_its_date_stream_and_transformation(
    seco_root: Path, data_mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[Tensor, Tensor, int, bool]] = []

    class Spy(torch.nn.Module):
        def __init__(self, *args: object) -> None:
            super().__init__()

        def draw_each(
            self, keys: Tensor, streams: dict[int, bool], size: torch.Size
        ) -> list[tuple[Tensor, int, bool]]:
            assert size == (48, 48)
            return [(keys, *stream) for stream in streams.items()]

        def make(self, patches: Tensor, draws: tuple[Tensor, int, bool]) -> Tensor:
            calls.append((patches, *draws))
            return torch.full((1,), float(draws[1]))

    monkeypatch.setattr(seco_datamodule, "Augment", Spy)
    datamodule = make(seco_root, data_mode)
    _, recorder = fit(datamodule, 1, limit_train_batches=1)

    mode = DATA_MODES[data_mode]
    sampler = SeededSampler(len(datamodule.dataset), 3, epoch=lambda: 0)
    epochs, indices = zip(*list(sampler)[:2], strict=True)
    samples = [datamodule.dataset[key]["patches"] for key in list(sampler)[:2]]
    patches = torch.stack(samples)  # (B, T, C, H, W)
    keys = sample_keys(3, torch.tensor(epochs), torch.tensor(indices))
    assert len(calls) == len(mode.views)
    for stream, (view, call) in enumerate(zip(mode.views, calls, strict=True)):
        assert torch.equal(call[0], patches[:, view.date])
        assert torch.equal(call[1], keys)
        assert call[2:] == (stream, view.synthetic)
    img_q, img_k, _ = recorder.batches[0]
    assert [img_q.item(), *(k.item() for k in img_k)] == list(range(len(mode.views)))


@pytest.mark.parametrize(("data_mode", "samples"), [("moco", 24), ("moco_tp", 6), ("seco", 6)])
def test_loop_gets_a_query_and_a_list_of_keys(
    seco_root: Path, data_mode: str, samples: int
) -> None:
    datamodule = make(seco_root, data_mode, bands=("B2", "B3"))
    _, recorder = fit(datamodule, 1)
    assert len(recorder.batches) == samples // 2
    for img_q, img_k, _ in recorder.batches:
        assert len(img_k) == DATA_MODES[data_mode].emb_spaces
        assert all(view.shape == (2, 2, 16, 16) for view in [img_q, *img_k])
        assert all(view.dtype == torch.float32 for view in [img_q, *img_k])
    assert datamodule.input_spec.bands == ("B2", "B3")


def test_shuffled_keys_are_the_same_views_in_another_order(seco_root: Path) -> None:
    _, plain = fit(make(seco_root, batch_size=6), 2)
    _, shuffled = fit(make(seco_root, batch_size=6, shuffle_keys=True), 2)
    orders = []
    for (q, keys, none), (same_q, shuffled_keys, order) in zip(
        plain.batches, shuffled.batches, strict=True
    ):
        assert none is None
        assert order is not None
        assert torch.equal(q, same_q)
        for key, moved in zip(keys, shuffled_keys, strict=True):
            torch.testing.assert_close(key[order], moved)
            assert not torch.equal(key, moved)
        orders.append(order.tolist())
    assert [sorted(order) for order in orders] == [list(range(6))] * 2
    assert orders[0] != orders[1]  # a new one at every step


@pytest.mark.difference("randomness")
def test_number_of_workers_does_not_change_the_views(seco_root: Path) -> None:
    _, alone = fit(make(seco_root), 2)
    _, helped = fit(make(seco_root, num_workers=2), 2)
    assert_same(alone, helped)


def test_views_differ_between_epochs_seeds_and_samples(seco_root: Path) -> None:
    _, recorder = fit(make(seco_root, batch_size=6, num_workers=1), 2)
    _, other_seed = fit(make(seco_root, batch_size=6, seed=4), 1)
    queries = [batch[0] for batch in (*recorder.batches, *other_seed.batches)]
    pictures = torch.cat(queries).flatten(1)
    assert len(pictures.unique(dim=0)) == 18


@pytest.mark.parametrize("num_workers", [0, 2])
def test_resumed_run_continues_with_the_views_of_an_unbroken_one(
    seco_root: Path, tmp_path: Path, num_workers: int
) -> None:
    _, unbroken = fit(make(seco_root), 4)
    checkpoints: dict[str, Any] = {"enable_checkpointing": True, "default_root_dir": tmp_path}
    trainer, _ = fit(make(seco_root, num_workers=num_workers), 2, **checkpoints)
    assert trainer.checkpoint_callback is not None
    saved = Path(trainer.checkpoint_callback.best_model_path)  # type: ignore[attr-defined]
    _, resumed = fit(make(seco_root, num_workers=num_workers), 4, ckpt_path=saved)
    unbroken.batches = unbroken.batches[2 * 3 :]
    assert_same(unbroken, resumed)


def test_last_incomplete_batch_is_dropped(seco_root: Path) -> None:
    _, recorder = fit(make(seco_root, batch_size=4), 1)
    assert [len(img_q) for img_q, _, _ in recorder.batches] == [4]


def test_fewer_samples_than_a_batch_are_an_error_with_both_numbers(seco_root: Path) -> None:
    with pytest.raises(UserError, match=r"6 samples, fewer .* batch of 7: lower --batch_size"):
        fit(make(seco_root, batch_size=7), 1)


def test_error_in_a_worker_reaches_the_user_as_one_sentence(many_places: Path) -> None:
    path = break_band(many_places, 50)
    with pytest.raises(UserError) as caught:
        fit(make(many_places, "moco", num_workers=1, batch_size=10), 1)
    assert sentence_of(caught.value).startswith(f"{path} is missing: ")


def test_skipped_patches_are_listed_and_warned_of_once(many_places: Path, tmp_path: Path) -> None:
    path = break_band(many_places, 50)
    datamodule = make(
        many_places, "moco", batch_size=10, num_workers=1, on_bad_patch="skip", log_dir=tmp_path
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _, recorder = fit(datamodule, 3)
    assert len(recorder.batches) == 30
    assert (tmp_path / "bad_patches.txt").read_text() == f"{path}\n"
    messages = [str(w.message) for w in caught if "bad patches" in str(w.message)]
    assert len(messages) == 1
    assert str(tmp_path / "bad_patches.txt") in messages[0]


def test_skipping_stops_above_one_percent(many_places: Path, tmp_path: Path) -> None:
    for place in (10, 50):
        break_band(many_places, place)
    datamodule = make(many_places, "moco", batch_size=10, on_bad_patch="skip", log_dir=tmp_path)
    with (
        pytest.warns(UserWarning, match="skipping bad patches"),
        pytest.raises(UserError, match="more than 1% of 101 samples are bad, 2 so far"),
    ):
        fit(datamodule, 2)
    assert len((tmp_path / "bad_patches.txt").read_text().splitlines()) == 2


def test_without_a_log_folder_no_list_is_written(tmp_path: Path) -> None:
    bad = BadPatchList(200, None)
    with pytest.warns(UserWarning, match="skipping bad patches, the first is a"):
        bad.add(["a", "a"])
    bad.add(["a", "b"])
    assert list(bad.names) == ["a", "b"]
    assert list(tmp_path.iterdir()) == []


def save_pictures(root: Path, count: int = 6) -> None:
    for number in range(count):
        path = root / f"class_{number % 2}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)


@pytest.mark.parametrize("zipped", [False, True])
def test_moco_takes_pictures_from_class_folders_or_a_zip(tmp_path: Path, zipped: bool) -> None:
    save_pictures(tmp_path / "pictures")
    root = tmp_path / "pictures"
    if zipped:
        root = Path(shutil.make_archive(str(tmp_path / "p"), "zip", root))
    (tmp_path / "list").write_text("0.jpg\n3.jpg\n5.jpg\n")
    datamodule = make(root, "moco", image_list=tmp_path / "list", num_workers=1)
    _, recorder = fit(datamodule, 1)
    assert isinstance(datamodule.dataset.source, Pictures)
    assert len(datamodule.dataset) == 3
    assert datamodule.input_spec.bands == ("R", "G", "B")
    assert [img_q.shape for img_q, _, _ in recorder.batches] == [(2, 3, 16, 16)]
    assert not datamodule.hints(num_negatives=2)  # to pack a file per sample would gain nothing


def test_wrong_data_is_refused_with_its_remedy(seco_root: Path, tmp_path: Path) -> None:
    save_pictures(tmp_path / "pictures")
    pictures = tmp_path / "pictures"
    (tmp_path / "empty").mkdir()
    with zipfile.ZipFile(tmp_path / "seco.zip", "w") as archive:
        archive.write(next(seco_root.glob("*/*/B4.tif")), "000000/date/B4.tif")
    place = next(p for p in seco_root.iterdir() if p.is_dir())

    cases = [
        (make(pictures), r"needs 3 dates of each place, but .*: use --data_mode moco"),
        (make(pictures, "moco_tp"), "needs 2 dates of each place, but"),
        (make(pictures, "moco", bands=("B2",)), "leave --bands out"),
        (make(tmp_path / "seco.zip", bands=("B4",)), "has 1 date, but"),
        (make(place, "moco"), "give the folder of the places"),
        (make(seco_root.parent, "moco"), "give the folder of the places"),
        (make(seco_root, image_list=tmp_path), "--image_list is for pictures"),
        (make(tmp_path / "empty"), "neither pictures"),
        (make(tmp_path / "nowhere"), "is missing"),
    ]
    for datamodule, message in cases:
        with pytest.raises(UserError, match=message):
            datamodule.setup()


def test_batches_of_other_loaders_are_left_alone(seco_root: Path) -> None:
    datamodule = make(seco_root)
    datamodule.setup()
    batch = {"patches": torch.zeros(1)}
    assert datamodule.on_before_batch_transfer(batch, 0) is batch
    assert datamodule.on_after_batch_transfer(batch, 0) is batch

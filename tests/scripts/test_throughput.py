"""The benchmark: its arithmetic against closed forms, its pieces against what they stand for."""

import gc
import json
import time
import zipfile
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import rasterio
import torch

from benchmarks import throughput, timing
from benchmarks.input_cases import (
    FOLDER,
    SECO,
    STORE,
    ZIP,
    make_archive,
    seco_views,
    store_loader,
)
from benchmarks.reference_pipeline import ReferenceDataset
from benchmarks.roofline import step_cost
from benchmarks.throughput_report import ceilings_of, check_goals
from benchmarks.timing import Rates, interleave, one_core, rate
from benchmarks.train_cases import BareLoop, trainer_rate
from datasets.seco.patches import SecoPatches
from datasets.seco.samples import PatchSource
from datasets.store.reader import PackedStore
from models.moco2_module import MocoV2
from tests.references.script import exit_code
from utils.augment_config import AugmentConfig
from utils.transforms import Augment

CPU = torch.device("cpu")
TRAIN_NAMES = ["step, views", "step, patches", "loop, store", "Trainer, memory", "Trainer, store"]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """5 places x 5 dates of 96 px, of which 2 are drawn."""
    root = tmp_path_factory.mktemp("archive")
    make_archive(root, num_places=5, num_drawn=2, size=96)
    return root


def test_medians_quartiles_and_ratios_in_closed_form() -> None:
    rates = Rates((5.0, 1.0, 2.0, 4.0, 3.0))
    assert (rates.median, rates.quartiles) == (3, (2, 4))
    # The machine got ten times slower from round to round; one case stayed twice as fast.
    slow, fast = Rates((100.0, 10.0, 1.0)), Rates((200.0, 20.0, 2.0))
    assert fast.over(slow) == 2


def test_rounds_are_interleaved() -> None:
    calls: list[str] = []

    def measure(name: str) -> float:
        calls.append(name)
        return len(calls)

    rates = interleave({name: partial(measure, name) for name in "ab"}, repeats=3)
    assert calls == ["a", "b"] * 3
    assert {name: case.values for name, case in rates.items()} == {"a": (1, 3, 5), "b": (2, 4, 6)}


def test_a_share_of_a_core_is_made_up_for() -> None:
    """10 and 12 samples/s with 50 and 80 % of a core."""
    assert Rates((10.0, 12.0), (0.5, 0.8)).per_cpu_second().values == pytest.approx((20, 15))
    cases = {"rest": rate(lambda: time.sleep(0.2), 1, CPU)}
    cases["work"] = rate(lambda: sum(range(10**6)), 1, CPU)
    shares = {name: case.busy[0] for name, case in interleave(cases, 1).items()}
    assert shares["rest"] < shares["work"]


def test_a_rate_is_units_per_second_of_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([3.0, 5.5])
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: next(now)))
    assert rate(lambda: None, 10, CPU)() == 4


def test_one_core_is_given_back() -> None:
    torch.set_num_threads(2)
    try:
        with one_core():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("base_encoder", "gflop", "megabytes"),
    [
        # Section 2 of the performance notes: 21.56 and 49.00 GFLOP; bf16 traffic of a forward and
        # a backward pass and three forward passes, 40 + 64 + 3 * 40 and 184 + 291 + 3 * 184 MB.
        ("resnet18", 21.56, 224),
        pytest.param("resnet50", 49.00, 1027, marks=pytest.mark.slow),
    ],
)
def test_cost_of_a_step_is_that_of_the_literature(
    base_encoder: str, gflop: float, megabytes: float
) -> None:
    cost = step_cost(base_encoder, crop_size=224, batch_size=256, autocast=torch.bfloat16)
    assert cost["flop"] == pytest.approx(gflop * 1e9, rel=0.01)
    assert cost["traffic"] == pytest.approx(megabytes * 1e6, rel=0.15)


def test_ceilings_in_closed_form() -> None:
    limits = ceilings_of({"flop": 10, "traffic": 4}, flop_per_s=200, bytes_per_s=20)
    assert limits == {"arithmetic": 20, "memory": 5, "one after another": 4}


def test_bare_loop_takes_the_step_of_the_model() -> None:
    """Against the model's own loss and SGD by hand: w <- w - 0.03 * (gradient + 1e-4 * w)."""
    torch.manual_seed(0)
    model = MocoV2("resnet18", emb_spaces=3, num_negatives=8)
    views = [torch.randn(4, 3, 32, 32) for _ in range(4)]
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    logits, targets = model(views[0], views[1:])
    torch.stack([torch.nn.functional.cross_entropy(s, targets) for s in logits]).sum().backward()
    weight = next(model.encoder_q.parameters())
    assert weight.grad is not None
    expected = weight.detach() - 0.03 * (weight.grad + 1e-4 * weight.detach())
    model.zero_grad()
    model.load_state_dict(state)
    BareLoop(model, None).step((views[0], views[1:]))
    torch.testing.assert_close(weight.detach(), expected)


def test_trainings_with_lightning_do_not_pile_up(archive: Path) -> None:
    flags = ["--data_dir", str(archive / STORE), "--precision", "32-true", "--gpus", "0"]
    flags += ["--batch_size", "4", "--crop_size", "32", "--num_negatives", "8"]
    alive = []
    for in_memory in (True, False):
        assert trainer_rate(flags, warm_up=1, steps=1, in_memory=in_memory) > 0
        alive.append(sum(type(thing) is MocoV2 for thing in gc.get_objects()))
    assert alive[1] == alive[0]


def test_archive_holds_the_same_small_jpeg_files_in_three_shapes(archive: Path) -> None:
    files = sorted((archive / FOLDER).glob("*/*/*"))
    assert len(files) == 5 * 5 * 4  # with metadata
    with rasterio.open(next(path for path in files if path.suffix == ".tif")) as file:
        assert file.compression.value == "JPEG"
        assert file.crs is not None
    with zipfile.ZipFile(archive / ZIP) as zipped:
        assert "seco/000004/" in zipped.namelist()
    sources: list[PatchSource] = [SecoPatches(archive / name) for name in (FOLDER, ZIP)]
    sources.append(PackedStore(archive / STORE))
    for patch in range(25):
        first, *others = (torch.from_numpy(source.read(patch)) for source in sources)
        assert all(torch.equal(first, other) for other in others)


def test_places_of_a_user_are_copied_and_linked(archive: Path, tmp_path: Path) -> None:
    make_archive(tmp_path, num_places=7, num_drawn=0, data_dir=archive / FOLDER)
    names = [f"{number:06d}" for number in range(7)]
    assert sorted(path.name for path in (tmp_path / FOLDER).iterdir()) == names
    assert len(PackedStore(tmp_path / STORE).starts) - 1 == 7


def test_reference_has_the_statistics_of_our_views(archive: Path) -> None:
    """Mean and deviation per view and channel over many draws of the same places."""
    torch.manual_seed(0)
    dataset = ReferenceDataset(archive / FOLDER, crop_size=32)
    loader = store_loader(PackedStore(archive / STORE), batch_size=5)
    augment = Augment(SecoPatches(archive / FOLDER).input_spec, AugmentConfig(crop_size=32))
    theirs, ours = [], []
    for epoch in range(20):
        for batch in loader:
            batch["epoch"] = torch.full((5,), epoch)
            query, images = seco_views(augment, batch)
            ours.append(torch.stack([query, *images], dim=1))
        for place in range(5):
            query, images = dataset[place]
            theirs.append(torch.stack([query, *images]))
    reference, views = torch.stack(theirs), torch.cat(ours)
    assert reference.shape == views.shape == (100, len(SECO.views), 3, 32, 32)
    assert reference.dtype == views.dtype == torch.float32
    for statistic in (torch.mean, torch.std):
        torch.testing.assert_close(
            statistic(views, dim=(0, 3, 4)), statistic(reference, dim=(0, 3, 4)), atol=0.2, rtol=0
        )


def test_goals_of_the_device_are_judged_and_others_are_not() -> None:
    names = [f"{encoder}/{name}" for encoder in throughput.ENCODERS for name in TRAIN_NAMES]
    rates = dict.fromkeys(names, Rates((1.0,))) | {"augment/device": Rates((256_000.0,))}
    rates["resnet18/Trainer, store"] = Rates((88.0, 0.89, 9.4))
    rates["resnet18/Trainer, memory"] = Rates((100.0, 1.0, 10.0))
    for device, values in (
        ("CPU", [11, None, None, None, None, None]),
        ("NVIDIA H200", [None, 1, 1, 11, 0, 1]),
    ):
        rows = check_goals(rates, device)
        assert [row["value"] for row in rows] == pytest.approx(values)
    (row,) = (row for row in check_goals({}, device) if row["target"] == "ms per 1,024 views")
    assert row["verdict"] == "not measured"
    verdicts = [row["verdict"] for row in rows]
    assert verdicts[:2] == ["not measured here, needs CPU", "NOT MET"]
    assert verdicts[3:] == ["NOT MET", "met", "met"]


def test_too_few_places_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--gpus", "0", "--num_places", "4"]
    assert exit_code(monkeypatch, "benchmarks/throughput.py", *flags) == 2
    error = "error: --num_places 4 is less than a batch of 32: raise it\n"
    assert capsys.readouterr().err == error


@pytest.mark.slow
def test_quick_run_writes_every_row(tmp_path: Path) -> None:
    path, plot = tmp_path / "result.json", tmp_path / "result.png"
    flags = ["--quick", "--gpus", "0", "--repeats", "1", "--batch_size", "4", "--num_places", "8"]
    throughput.main([*flags, "--save_path", str(path), "--plot", str(plot)])
    result = json.loads(path.read_text())
    names = [f"resnet18/{name}" for name in TRAIN_NAMES]
    names += ["resnet50/step, views", "resnet50/step, patches", "augment/device"]
    names += ["ceiling/GEMM float32", "ceiling/copy"]
    assert set(names) <= result["rates"].keys()
    for case in result["rates"].values():
        assert 0 < case["low"] <= case["median"] <= case["high"]
    assert {"targets", "versions", "git_commit", "cpu_count", "arguments"} <= result.keys()
    assert plot.is_file()

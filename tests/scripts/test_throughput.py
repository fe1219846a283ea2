"""The benchmark: its arithmetic against closed forms, its pieces against what they stand for."""

import gc
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import rasterio
import torch

from benchmarks import throughput, timing
from benchmarks.archive import Archive, copy_folder, write_folder
from benchmarks.bare_loop import SECO, BareLoop, seco_views
from benchmarks.input_cases import input_cases, store_loader
from benchmarks.lightning_run import trainer_rate
from benchmarks.reference_pipeline import ReferenceDataset, reference_loader
from benchmarks.roofline import StepCost, roofline, step_cost
from benchmarks.targets import Target, check_targets, loader_gap, ms_per_1024_views, ratio
from benchmarks.throughput_report import INPUT_SECTIONS, TRAIN_LABELS
from benchmarks.timing import Rates, interleave, one_core, seconds
from datasets.seco.patches import SecoPatches
from datasets.seco.samples import PatchSource
from datasets.store.reader import PackedStore
from models.moco2_module import MocoV2
from tests.references.script import exit_code
from utils.augment_config import AugmentConfig
from utils.data import sample_keys
from utils.transforms import Augment

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    """5 places x 5 dates of 96 px, of which 2 are drawn."""
    root = tmp_path_factory.mktemp("archive")
    write_folder(root / "seco", num_places=5, num_drawn=2, size=96)
    return Archive.beside(root / "seco", root)


def test_median_and_quartiles_in_closed_form() -> None:
    rates = Rates((5.0, 1.0, 2.0, 4.0, 3.0))
    assert rates.median == 3
    assert rates.quartiles == (2, 4)


def test_ratios_are_taken_within_a_round() -> None:
    """The machine got ten times slower from round to round; one case stayed twice as fast."""
    slow, fast = Rates((100.0, 10.0, 1.0)), Rates((200.0, 20.0, 2.0))
    assert fast.over(slow) == 2


def test_rounds_are_interleaved() -> None:
    calls: list[str] = []

    def measure(name: str) -> float:
        calls.append(name)
        return len(calls)

    rates = interleave({"a": lambda: measure("a"), "b": lambda: measure("b")}, repeats=3)
    assert calls == ["a", "b"] * 3
    assert rates == {"a": Rates((1, 3, 5)), "b": Rates((2, 4, 6))}


def test_seconds_are_those_of_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([3.0, 5.5])
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: next(now)))
    assert seconds(lambda: None, CPU) == 2.5


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
        ("resnet50", 49.00, 1027),
    ],
)
def test_cost_of_a_step_is_that_of_the_literature(
    base_encoder: str, gflop: float, megabytes: float
) -> None:
    cost = step_cost(base_encoder, crop_size=224, batch_size=256, autocast=torch.bfloat16)
    assert cost.flop == pytest.approx(gflop * 1e9, rel=0.01)
    assert cost.traffic == pytest.approx(megabytes * 1e6, rel=0.15)


def test_roofline_in_closed_form() -> None:
    line = roofline(StepCost(flop=10, traffic=4), flop_per_s=200, bytes_per_s=20)
    assert (line.arithmetic, line.memory, line.one_after_another) == (20, 5, 4)


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
    BareLoop(model, None).step(views[0], views[1:])
    torch.testing.assert_close(weight.detach(), expected)


def test_trainings_with_lightning_do_not_pile_up(archive: Archive) -> None:
    flags = ["--data_dir", str(archive.store), "--precision", "32-true", "--gpus", "0"]
    flags += ["--batch_size", "4", "--crop_size", "32", "--num_negatives", "8"]
    alive = []
    for in_memory in (True, False, True):
        assert trainer_rate(flags, warm_up=1, steps=1, in_memory=in_memory) > 0
        alive.append(sum(type(thing) is MocoV2 for thing in gc.get_objects()))
    assert alive[2] == alive[0]


def test_archive_holds_small_jpeg_files_of_every_place(archive: Archive) -> None:
    files = sorted(archive.folder.glob("*/*/*.tif"))
    assert len(files) == 5 * 5 * 3
    with rasterio.open(files[0]) as file:
        assert file.compression.value == "JPEG"
        assert file.crs is not None
    assert (archive.folder / "000004").is_dir()


def test_folder_zip_and_store_hold_the_same(archive: Archive) -> None:
    sources: list[PatchSource] = [SecoPatches(archive.folder), SecoPatches(archive.zip)]
    sources.append(PackedStore(archive.store))
    for patch in range(25):
        first, *others = (torch.from_numpy(source.read(patch)) for source in sources)
        assert all(torch.equal(first, other) for other in others)


def test_places_of_a_user_are_copied_and_linked(archive: Archive, tmp_path: Path) -> None:
    copy_folder(archive.folder, tmp_path / "copy", num_places=7)
    assert sorted(path.name for path in (tmp_path / "copy").iterdir()) == [
        f"{number:06d}" for number in range(7)
    ]
    assert len(SecoPatches(tmp_path / "copy").places) == 7


def test_reference_has_the_statistics_of_our_views(archive: Archive) -> None:
    """Mean and deviation per view and channel over many draws of the same places."""
    torch.manual_seed(0)
    dataset = ReferenceDataset(archive.folder, crop_size=32)
    augment = Augment(SecoPatches(archive.folder).input_spec, AugmentConfig(crop_size=32))
    theirs, ours = [], []
    for epoch in range(20):
        for batch in store_loader(PackedStore(archive.store), batch_size=5):
            keys = sample_keys(0, torch.full((5,), epoch), batch["index"])
            query, images = seco_views(augment, batch["patches"], keys)
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


def test_reference_loads_with_worker_processes(archive: Archive) -> None:
    loader = reference_loader(ReferenceDataset(archive.folder, 16), batch_size=2, num_workers=2)
    batches = iter(loader)
    for _ in range(4):  # more than the five places once: there is no end
        query, keys = next(batches)
        assert query.shape == (2, 3, 16, 16)
        assert [key.shape for key in keys] == [query.shape] * 3


def test_input_cases_measure_all_rows_of_the_table(archive: Archive) -> None:
    labels = {name for section in INPUT_SECTIONS.values() for name in section}
    with input_cases(archive, num_samples=1, batch_size=2) as cases:
        assert cases.keys() == labels
        assert all(measure() > 0 for measure in cases.values())


def test_targets_compare_what_they_say() -> None:
    rates = {
        "resnet18/Trainer, store": Rates((95.0, 190.0, 9.4)),
        "resnet18/Trainer, memory": Rates((100.0, 200.0, 10.0)),
        "augment/device": Rates((256_000.0,)),
    }
    assert loader_gap("resnet18")(rates) == pytest.approx(5)
    assert ratio("resnet18/Trainer, store", "resnet18/Trainer, memory", 100)(rates) == 95
    assert ms_per_1024_views("augment/device")(rates) == 1


@pytest.mark.parametrize(
    ("value", "at_most", "verdict"),
    [
        (None, False, "not measured here, needs H200"),
        (9.0, False, "NOT MET"),
        (10.0, False, "met"),
        (20.0, False, "met, stretch too"),
        (11.0, True, "NOT MET"),
        (10.0, True, "met"),
    ],
)
def test_verdict(value: float | None, at_most: bool, verdict: str) -> None:
    stretch = None if at_most else 20.0
    target = Target("speed", "H200", lambda rates: 0, 10, stretch, at_most=at_most)
    assert target.verdict(value) == verdict


def test_targets_of_a_device_that_is_not_here_are_not_judged() -> None:
    same = Rates((1.0,))
    names = [name for section in INPUT_SECTIONS.values() for name in section]
    names += [f"{encoder}/{name}" for encoder in throughput.ENCODERS for name in TRAIN_LABELS]
    rows = check_targets(dict.fromkeys([*names, "augment/device"], same), "CPU")
    judged = [row["target"] for row in rows if row["value"] is not None]
    assert len(judged) == 4
    assert all("H200" in str(row["verdict"]) for row in rows if row["value"] is None)


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
    names = [name for section in INPUT_SECTIONS.values() for name in section]
    names += [f"resnet18/{name}" for name in TRAIN_LABELS if name != "Trainer, store on GPU"]
    names += ["resnet50/step, views", "resnet50/step, patches", "augment/device"]
    names += ["ceiling/GEMM float32", "ceiling/copy"]
    assert set(names) <= result["rates"].keys()
    for case in result["rates"].values():
        assert 0 < case["low"] <= case["median"] <= case["high"]
    assert len(result["targets"]) == 10
    assert {"versions", "git_commit", "cpu_count", "arguments"} <= result.keys()
    assert plot.is_file()

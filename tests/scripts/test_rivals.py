"""The comparison with other packages: same views, same step, and rows for what is missing."""

import json
import random
import re
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import rival_steps, rivals
from benchmarks.input_cases import make_archive
from benchmarks.reference_pipeline import ReferenceDataset
from benchmarks.rival_pipelines import PIPELINES, write_pictures
from benchmarks.rival_steps import LightlyLoop, OriginalLoop
from benchmarks.train_cases import BareLoop
from models.moco2_module import MocoV2

SIZES = ("resnet18_slim", 16, 8, 3)  # encoder, embedding, queue, spaces


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4 places x 5 dates of 96 px, as GeoTIFFs and as RGB JPEGs."""
    root = tmp_path_factory.mktemp("archive")
    make_archive(root, num_places=4, num_drawn=4, size=96)
    write_pictures(root)
    return root


def draw_views(batches: Iterator[Any], number: int) -> Tensor:
    """Return views of so many batches: query and keys, (samples, 4, 3, H, W)."""
    found = [next(batches) for _ in range(number)]
    return torch.cat([torch.stack([query, *keys], dim=1) for query, keys in found])


@pytest.fixture(scope="module")
def expected(archive: Path) -> Tensor:
    """24 samples of the original: (samples, 4, 3, H, W)."""
    torch.manual_seed(0)
    random.seed(0)
    dataset = ReferenceDataset(archive / "seco")
    samples = [dataset[place] for _ in range(6) for place in range(4)]
    return torch.stack([torch.stack([query, *keys]) for query, keys in samples])


@pytest.mark.parametrize("name", PIPELINES)
def test_views_of_a_rival_have_the_statistics_of_the_original(
    name: str, archive: Path, expected: Tensor
) -> None:
    for package in rivals.ROWS[name][1]:
        pytest.importorskip(package)
    torch.manual_seed(0)
    random.seed(0)
    items = PIPELINES[name](archive, 4)
    assert set(items) == {f"{kind}/{name}" for kind in ("read", "augment", "input")}
    assert len(next(items[f"read/{name}"])) == 4  # type: ignore[arg-type]
    assert draw_views(items[f"augment/{name}"], 1).shape == (4, 4, 3, 224, 224)
    views = draw_views(items[f"input/{name}"], 6)
    assert (views.shape, views.dtype) == (expected.shape, torch.float32)
    for statistic in (torch.mean, torch.std):
        error = (statistic(views, dim=(0, 3, 4)) - statistic(expected, dim=(0, 3, 4))).abs()
        assert error[[0, 2]].max() < 0.3  # only cropped
        assert error[[1, 3]].max() < 0.6  # with colour


def test_step_of_the_original_has_the_losses_of_ours() -> None:
    torch.manual_seed(0)
    images = torch.randn(4, 4, 3, 32, 32)
    views = images[0], list(images[1:])
    model, original = MocoV2(*SIZES), OriginalLoop(*SIZES)
    original.load_state_dict(model.state_dict())
    ours = BareLoop(model, None)
    for _ in range(2):
        torch.testing.assert_close(original.step(views), ours.step(views), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(original.queue, model.queue, atol=1e-4, rtol=1e-3)
    assert original.queue_ptr.tolist() == model.queue_ptr.tolist() == [[0]] * 3


@pytest.mark.slow
def test_rounding_of_a_step_stays_near_that_of_the_original() -> None:
    """Next to 64-bit floats, on images where rounding moves no activation across zero."""
    errors: dict[str, list[float]] = {"original": [], "ours": []}
    for seed in range(3):
        torch.manual_seed(seed)
        images = torch.randn(4, 4, 3, 64, 64)  # Winograd's algorithm takes maps of 2 x 2 at least
        model = MocoV2(*SIZES).to(memory_format=torch.channels_last)
        original, exact = OriginalLoop(*SIZES), OriginalLoop(*SIZES).double()
        start = {name: values.clone() for name, values in model.state_dict().items()}
        steps = {exact: exact.step, original: original.step, model: BareLoop(model, None).step}
        changes = []
        for network, step in steps.items():
            network.load_state_dict(start)
            views = images.to(next(network.parameters()).dtype)
            step((views[0], list(views[1:])))
            state = network.state_dict()
            names = [name for name, _ in model.encoder_q.named_parameters(prefix="encoder_q")]
            changes.append(torch.cat([(state[n] - start[n]).double().flatten() for n in names]))
        reference, *found = changes
        for name, change in zip(errors, found, strict=True):
            errors[name].append(float((change - reference).norm() / reference.norm()))
    theirs, ours = (min(found) for found in errors.values())
    assert ours < 5e-5
    assert ours < 4 * theirs


def test_step_of_lightly_trains_the_query_and_averages_the_keys() -> None:
    pytest.importorskip("lightly")
    torch.manual_seed(0)
    images = torch.randn(4, 4, 3, 32, 32)
    loop = LightlyLoop(*SIZES)
    query, key = (next(net.parameters()) for net in (loop.backbone, loop.backbone_momentum))
    start = query.detach().clone()
    views = images[0], list(images[1:])
    loop.step(views)
    torch.testing.assert_close(key, start)  # averaged before the step
    trained = query.detach().clone()
    assert not torch.equal(trained, start)
    loop.step(views)
    torch.testing.assert_close(key, 0.999 * start + 0.001 * trained)


def without(*packages: str) -> Any:
    """Return ``find_spec`` on a machine without some packages."""

    def find(name: str) -> ModuleSpec | None:
        return None if name in packages else find_spec(name)

    return find


def test_table_has_all_rows_and_names_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = {"repeats": 1, "num_places": 2, "num_drawn": 1, "num_samples": 2, "steps": 1}
    monkeypatch.setattr(rivals, "SIZES", {name: (1, value) for name, value in sizes.items()})
    monkeypatch.setattr(rival_steps, "SIZES", SIZES)
    monkeypatch.setattr(rivals, "find_spec", without("torchgeo", "kornia", "lightly"))
    path = tmp_path / "rivals.json"
    flags = ["--quick", "--batch_size", "2", "--crop_size", "32", "--save_path", str(path)]
    rivals.main(flags)
    *_, how, last = lines = capsys.readouterr().out.splitlines()
    for label, _ in rivals.ROWS.values():
        assert sum(line.startswith(f"| {label} |") for line in lines) == 1
    assert f"| torchgeo, kornia |{' not installed |' * 4}" in lines
    assert how.endswith("pip install -r requirements-bench.txt")
    assert re.fullmatch(r"augmentation beside albumentations: (\d+\.\d\d|not measured)", last)
    result = json.loads(path.read_text())
    assert result["ratios"]["reference"] == dict.fromkeys(rivals.COLUMNS, 1.0)
    for name in ("folder", "zip", "store"):
        assert result["ratios"][name].keys() == rivals.COLUMNS.keys()
    assert {"rivals", "versions", "device", "git_commit"} <= result.keys()

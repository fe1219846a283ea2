"""Probes during a pre-training: what they measure, and that the training never feels them."""

import csv
import random
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from models.backbones import Encoder
from models.linear_probe import Labelled, Recipe, fit_linear_probe
from models.moco2_module import MocoV2
from models.ssl_online import SSLOnlineEvaluator
from tests.references.pretraining import (
    assert_equal,
    pretrain,
    pretrain_in_two_processes,
    state,
    tensors,
)
from tests.references.probe_pictures import stacked
from utils.errors import UserError
from utils.input_spec import DataSpec, InputSpec, input_transform
from utils.metrics import accuracy
from utils.probe_data import ProbeData, splits_in_memory

CPU = torch.device("cpu")
TRANSFORM = input_transform(InputSpec.of_pictures(), DataSpec.of_pictures("pictures"), "auto")


@pytest.fixture(autouse=True)
def _loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")  # the machine's name need not resolve


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    torch.manual_seed(0)
    return Encoder("resnet18")


def evaluator(pictures: ProbeData | None = None, epochs: int = 25) -> SSLOnlineEvaluator:
    return SSLOnlineEvaluator(
        pictures, max_epochs=epochs, every_n_epochs=1, seed=3, precision="32-true"
    )


def pictures(
    train: Tensor, val: Tensor, num_classes: int, levels: Tensor | None = None
) -> ProbeData:
    """Make noise of a brightness for each class or number of labels, or of the given levels."""
    targets = torch.cat([train, val])
    if levels is None:
        levels = targets if targets.ndim == 1 else targets.sum(1)
    generator = torch.Generator().manual_seed(1)
    noise = torch.randint(20, (len(targets), 3, 32, 32), generator=generator)
    images = (80 * levels.view(-1, 1, 1, 1) + noise).to(torch.uint8)
    rows = {"train": torch.arange(len(train)), "val": torch.arange(len(train), len(targets))}
    splits = splits_in_memory(images, targets, [str(row) for row in range(len(targets))], rows)
    return ProbeData(TRANSFORM, splits, [str(label) for label in range(num_classes)])


CLASSES = pictures(torch.arange(3).repeat(20), torch.arange(3).repeat(4), 3)
NESTED = torch.tensor([[1, 0], [1, 1]])  # label 1 only where it is bright
LABELS = pictures(NESTED.repeat(20, 1), NESTED.repeat(5, 1), 2)


@pytest.mark.parametrize(("data", "name"), [(CLASSES, "accuracy"), (LABELS, "map_micro")])
def test_pictures_of_different_brightness_are_classified(
    encoder: Encoder, data: ProbeData, name: str
) -> None:
    scores = evaluator().evaluate(encoder, data, CPU)
    assert scores == {f"online/linear_{name}": 100.0, f"online/knn_{name}": 100.0}


def test_labels_at_random_are_not_learned(encoder: Encoder) -> None:
    generator = torch.Generator().manual_seed(2)
    shuffled = torch.arange(3).repeat(40)[torch.randperm(120, generator=generator)]
    data = pictures(torch.arange(3).repeat(20), shuffled, 3, levels=torch.zeros(180))
    scores = evaluator().evaluate(encoder, data, CPU)
    assert all(20 < score < 47 for score in scores.values())


def test_the_linear_probe_is_that_of_the_frozen_encoder(encoder: Encoder) -> None:
    with torch.no_grad():
        features, others = (
            encoder.eval()(TRANSFORM.normalize(stacked(CLASSES, split)))
            for split in ("train", "val")
        )
    labelled = Labelled(features, CLASSES.targets["train"])
    recipe = Recipe(max_epochs=1, batch_size=256, learning_rate=1e-3)
    probe, _ = fit_linear_probe(labelled, 3, torch.arange(60), seed=3, recipe=recipe)
    score = evaluator(epochs=1).evaluate(encoder, CLASSES, CPU)["online/linear_accuracy"]
    assert score == pytest.approx(accuracy(CLASSES.targets["val"], probe.scores(others)))
    assert score < 100  # or the equality would say little


def generator_states() -> list[object]:
    of_numpy = [str(part) for part in np.random.get_state()]  # noqa: NPY002
    return [torch.get_rng_state().tolist(), random.getstate(), of_numpy]


@pytest.mark.difference("online-probe")
def test_nothing_of_the_model_changes() -> None:
    model = MocoV2("resnet18_slim", emb_dim=8, num_negatives=8, emb_spaces=1).train()
    model.encoder_q.get_submodule("1").eval()  # in any mode
    image = torch.randn(2, 3, 32, 32)
    torch.stack([logits.sum() for logits in model(image, [image])[0]]).sum().backward()
    before = deepcopy(model.state_dict())
    gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    modes = [module.training for module in model.modules()]
    wanted = [parameter.requires_grad for parameter in model.parameters()]
    generators = generator_states()
    evaluator(epochs=2).evaluate(model.encoder_q, CLASSES, CPU)
    assert_equal(before, model.state_dict())
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        if gradient is None or parameter.grad is None:
            assert gradient is parameter.grad
        else:
            assert torch.equal(gradient, parameter.grad)
    assert modes == [module.training for module in model.modules()]
    assert wanted == [parameter.requires_grad for parameter in model.parameters()]
    assert generators == generator_states()


def test_the_encoder_is_probed_in_eval_mode(encoder: Encoder) -> None:
    calm, busy = deepcopy(encoder).eval(), deepcopy(encoder).train()
    probe = evaluator(epochs=1)
    assert probe.evaluate(calm, CLASSES, CPU) == probe.evaluate(busy, CLASSES, CPU)


# --- whole runs -------------------------------------------------------------------------------


def online_rows(run_dir: Path) -> list[dict[str, str]]:
    with (run_dir / "metrics.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if row.get("online/knn_accuracy")]


@pytest.fixture(scope="module")
def probed(seco_root: Path, eurosat_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three epochs, with probes before them, after the second and the last one."""
    return pretrain(
        *(seco_root, tmp_path_factory.mktemp("probed"), "--max_epochs", "3"),
        *("--online_data_dir", str(eurosat_root), "--online_max_epochs", "2"),
        *("--online_val_every_n_epoch", "2"),
    )


def test_a_run_with_probes_ends_with_the_bits_of_one_without(
    probed: Path, seco_root: Path, tmp_path: Path
) -> None:
    plain = pretrain(seco_root, tmp_path, "--max_epochs", "3")
    name = "checkpoints/last.ckpt"
    assert_equal(tensors(plain / name), tensors(probed / name))
    assert online_rows(plain) == []


def test_probes_come_at_first_every_few_epochs_and_after_the_last(probed: Path) -> None:
    untrained, *rows = online_rows(probed)
    steps_per_epoch = 2
    assert (untrained["step"], untrained["epoch"], untrained["train/loss"]) == ("0", "0", "")
    assert [(int(row["step"]) + 1) / steps_per_epoch for row in rows] == [2, 3]
    assert all(0 <= float(row["online/linear_accuracy"]) <= 100 for row in rows)
    results = (probed / "results.json").read_text()
    assert "online/linear_accuracy" in results
    assert "train/loss" in results


def test_data_that_cannot_be_probed_are_refused_before_training(
    seco_root: Path, eurosat_root: Path, tmp_path: Path
) -> None:
    flags = ["--bands", "B8", "B4", "B3", "--online_data_dir"]
    with pytest.raises(UserError, match=r"quantiles|has no B8"):
        pretrain(seco_root, tmp_path, *flags, str(eurosat_root))
    with pytest.raises(UserError, match="does not exist"):
        pretrain(seco_root, tmp_path, "--online_data_dir", str(tmp_path / "absent"))
    with pytest.raises(UserError, match="--online_val_every_n_epoch must be above 0"):
        pretrain(seco_root, tmp_path, "--online_val_every_n_epoch", "0")
    assert list(tmp_path.iterdir()) == []


def test_a_run_can_be_probed_on_bigearthnet(
    seco_root: Path, bigearthnet_root: Path, tmp_path: Path
) -> None:
    flags = ["--max_epochs", "1", "--online_data_dir", str(bigearthnet_root)]
    run_dir = pretrain(seco_root, tmp_path, *flags, "--online_max_epochs", "1")
    results = (run_dir / "results.json").read_text()
    assert "online/linear_map_micro" in results
    assert "online/knn_map_micro" in results


@pytest.mark.slow
def test_one_of_two_processes_probes_while_the_other_waits(
    seco_root: Path, eurosat_root: Path, tmp_path: Path
) -> None:
    """They end with the bits of a run without probes."""
    modes = ["--data_mode", "moco_tp", "--max_epochs", "2"]
    plain = pretrain_in_two_processes(seco_root, tmp_path / "plain", *modes)
    flags = ["--online_data_dir", str(eurosat_root), "--online_max_epochs", "1"]
    done = pretrain_in_two_processes(seco_root, tmp_path / "probed", *modes, *flags)
    assert (plain.returncode, done.returncode) == (0, 0), done.stderr
    assert_equal(state(tmp_path / "plain"), state(tmp_path / "probed"))
    assert done.stderr.count("epoch 2: online/linear_accuracy") == 1
    assert done.stderr.count("reading EuroSAT") == 1
    assert "sync_dist" not in done.stderr
    (run_dir,) = (tmp_path / "probed").glob("pretrain-*/*")
    _, row = online_rows(run_dir)
    assert f"{float(row['online/knn_accuracy']):.2f} %" in done.stderr  # not a mean with nothing

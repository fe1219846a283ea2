"""Fine-tunings of both scripts: what they keep, how they resume, and what is refused."""

import csv
import io
import json
import shutil
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from pytorch_lightning import Trainer
from torch import Tensor

import main_bigearthnet
import main_eurosat
from models.backbones import load_encoder
from models.export import main as export
from tests.references.probe_pictures import stacked
from tests.references.script import as_flags, in_processes
from utils.checkpoint import read_checkpoint
from utils.errors import UserError
from utils.training import SampleProgress

COMMON = {"backbone_type": "random", "base_encoder": "resnet18_slim", "gpus": 0, "num_seeds": 1}


class Stopped(Exception):
    """The cluster takes the machine away."""


def eurosat_flags(data_dir: Path, log_dir: Path) -> list[str]:
    """The script and the flags of a short fine-tuning: 30 images, 2 steps per epoch."""
    where = {"data_dir": data_dir, "log_dir": log_dir, "precision": "32-true", "num_workers": 0}
    flags = as_flags(**where, **COMMON, method="finetune", finetune_epochs=2, batch_size=16)
    return ["main_eurosat.py", *flags, "--no_report"]


def bigearthnet_flags(data_dir: Path, log_dir: Path) -> list[str]:
    """The script and the flags of a short fine-tuning as the original does it, with dropout."""
    where = {"data_dir": data_dir, "log_dir": log_dir, "num_workers": 1, "image_size": 32}
    sizes = {"max_epochs": 2, "batch_size": 6, "learning_rate": 1e-3}
    flags = as_flags(**where, **COMMON, **sizes, protocol="paper")
    return ["main_bigearthnet.py", *flags, "--no_report"]


@pytest.fixture
def eurosat(eurosat_root: Path, tmp_path: Path) -> list[str]:
    return eurosat_flags(eurosat_root, tmp_path / "logs")


@pytest.fixture
def bigearthnet(bigearthnet_root: Path, tmp_path: Path) -> list[str]:
    return bigearthnet_flags(bigearthnet_root, tmp_path / "logs")


class Finished(NamedTuple):
    """A whole run. Read only."""

    command: list[str]
    metrics: dict[str, Any]
    run_dir: Path
    printed: str


@pytest.fixture(scope="module")
def eurosat_run(eurosat_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A fine-tuning that nothing stopped; predictions.npz is next to its logs."""
    folder = tmp_path_factory.mktemp("eurosat")
    command = eurosat_flags(eurosat_root, folder / "logs")
    printed = io.StringIO()
    with redirect_stdout(printed):
        metrics, run_dir = run(command, "--save_predictions", str(folder / "predictions.npz"))
    return Finished(command, metrics, run_dir, printed.getvalue())


@pytest.fixture(scope="module")
def bigearthnet_run(bigearthnet_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    command = bigearthnet_flags(bigearthnet_root, tmp_path_factory.mktemp("bigearthnet") / "logs")
    return Finished(command, *run(command), "")


def run(command: list[str], *more: str) -> tuple[dict[str, Any], Path]:
    """Return metrics and the new folder of a run in this process."""
    mains = {"main_eurosat.py": main_eurosat.main, "main_bigearthnet.py": main_bigearthnet.main}
    metrics = mains[command[0]]([*command[1:], *more])
    logs = Path(command[command.index("--log_dir") + 1])
    return metrics, max(logs.glob("*/version_*"), key=lambda path: path.name)


def stop_after_an_epoch(command: list[str]) -> Path:
    """Start a run that dies in its second epoch; return its checkpoint."""

    def die(self: SampleProgress, trainer: Trainer, *others: Any) -> None:
        if trainer.current_epoch == 1:
            raise Stopped

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SampleProgress, "on_train_batch_start", die)
        with pytest.raises(Stopped):
            run(command)
    logs = Path(command[command.index("--log_dir") + 1])
    (path,) = logs.glob("*/*/seed=42/checkpoints/last.ckpt")
    return path


@pytest.fixture(scope="module")
def eurosat_stopped(eurosat_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a fine-tuning that died in its second epoch. Read only."""
    command = eurosat_flags(eurosat_root, tmp_path_factory.mktemp("stopped") / "logs")
    return stop_after_an_epoch(command)


@pytest.fixture(scope="module")
def bigearthnet_stopped(bigearthnet_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    command = bigearthnet_flags(bigearthnet_root, tmp_path_factory.mktemp("stopped") / "logs")
    return stop_after_an_epoch(command)


def assert_same_bits(one: Any, other: Any) -> None:
    """Compare states of modules and optimisers."""
    assert type(one) is type(other)
    if isinstance(one, Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for name in one:
            assert_same_bits(one[name], other[name])
    elif isinstance(one, list | tuple):
        for left, right in zip(one, other, strict=True):
            assert_same_bits(left, right)
    else:
        assert one == other


def last(run_dir: Path) -> dict[str, Any]:
    return read_checkpoint(run_dir / "seed=42/checkpoints/last.ckpt")


@pytest.mark.parametrize("script", ["eurosat", "bigearthnet"])
@pytest.mark.difference("ben-checkpoints")
def test_a_resumed_run_ends_with_the_bits_of_an_unbroken_one(
    script: str, request: pytest.FixtureRequest
) -> None:
    command: list[str] = request.getfixturevalue(script)
    _, unbroken, unbroken_dir, _ = request.getfixturevalue(f"{script}_run")
    path: Path = request.getfixturevalue(f"{script}_stopped")
    torch.rand(7)  # the state of the global generator counts for nothing
    logs = command[command.index("--log_dir") + 1]  # other flags are next to the checkpoint
    alone = [command[0], "--log_dir", logs]
    resumed, resumed_dir = run(alone, "--resume_from_checkpoint", str(path))
    assert resumed_dir != unbroken_dir
    one, other = last(unbroken_dir), last(resumed_dir)
    assert one["global_step"] == other["global_step"] > read_checkpoint(path)["global_step"]
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "best", "hyper_parameters"):
        assert_same_bits(one[part], other[part])
    found = [name for name in unbroken if name.endswith("_per_seed")]
    assert found
    assert [resumed[name] for name in found] == [unbroken[name] for name in found]
    history = [(folder / "seed=42/metrics.csv") for folder in (resumed_dir, unbroken_dir)]
    assert history[0].read_text() == history[1].read_text()


@pytest.mark.difference("eurosat-checkpoints")
def test_the_best_epoch_is_an_encoder_with_its_classifier(
    eurosat_run: Finished, tmp_path: Path
) -> None:
    command, _, run_dir, printed = eurosat_run
    path = run_dir / "seed=42/checkpoints/best.ckpt"
    assert f"checkpoint: {path}\n" in printed
    encoder, spec = load_encoder("pretrain", ckpt_path=path)
    content = read_checkpoint(path)
    classifier = {
        name.removeprefix("classifier."): tensor
        for name, tensor in content["state_dict"].items()
        if not name.startswith("encoder_q.")
    }
    args = main_eurosat.parse_args(command[1:])
    test = stacked(main_eurosat.load_task(args)[1], "test")
    with torch.no_grad():
        features = encoder.eval()(spec.normalize(test))
        logits = features @ classifier["weight"].T + classifier["bias"]
    predictions = args.log_dir.with_name("predictions.npz")
    with np.load(predictions, allow_pickle=False) as saved:
        torch.testing.assert_close(torch.from_numpy(saved["scores"]), logits, rtol=0, atol=1e-4)
        embeddings = torch.from_numpy(saved["embeddings"])
    torch.testing.assert_close(embeddings, features, rtol=0, atol=1e-4)
    described = content["hyper_parameters"]
    assert (described["train_frac"], described["seed"], described["num_labelled"]) == (1.0, 42, 30)
    exported = tmp_path / "encoder.safetensors"
    export(["--ckpt_path", str(path), "--format", "safetensors", "--save_path", str(exported)])
    again, _ = load_encoder("pretrain", ckpt_path=exported)
    assert_same_bits(dict(encoder.state_dict()), dict(again.state_dict()))


def test_the_last_checkpoint_is_the_encoder_of_its_epoch_and_not_of_the_best(
    eurosat_run: Finished,
) -> None:
    """It holds both, and was refused for that."""
    path = eurosat_run.run_dir / "seed=42/checkpoints/last.ckpt"
    content = read_checkpoint(path)
    assert "encoder_q.0.weight" in content["best"]["state"]
    encoder, _ = load_encoder("pretrain", ckpt_path=path)
    expected = content["state_dict"]["encoder_q.0.weight"]
    assert torch.equal(encoder.state_dict()["0.weight"], expected)


def test_flags_of_all_repetitions_next_to_a_checkpoint_are_accepted(
    eurosat_stopped: Path, tmp_path: Path
) -> None:
    """An earlier version wrote those of all repetitions next to the checkpoint of each."""
    path = Path(shutil.copytree(eurosat_stopped.parent, tmp_path / "copy")) / "last.ckpt"
    file = path.parent / "arguments.json"
    content = json.loads(file.read_text())
    content["arguments"] |= {"num_seeds": 3, "train_frac": [0.5, 1.0], "seed": 41}
    content["arguments"]["method"] = ["linear", "finetune"]
    file.write_text(json.dumps(content))
    given = ["--num_seeds", "1", "--seed", "42", "--method", "finetune"]
    resume = ["--resume_from_checkpoint", str(path), *given]
    args = main_eurosat.parse_args(resume)
    assert (args.seed, args.num_seeds, args.train_frac) == (42, 1, [1.0])
    assert args.finetune_epochs == 2
    with pytest.raises(UserError, match="--split_seed 7 contradicts"):
        main_eurosat.parse_args([*resume, "--split_seed", "7"])


@pytest.mark.difference("ben-checkpoints")
def test_the_last_epoch_of_the_original_is_an_encoder_of_pictures_in_0_to_1(
    bigearthnet_run: Finished,
) -> None:
    folder = bigearthnet_run.run_dir / "seed=42/checkpoints"
    names = ["arguments.json", "last.ckpt", "previous.ckpt"]
    assert sorted(path.name for path in folder.iterdir()) == names
    encoder, spec = load_encoder("pretrain", ckpt_path=folder / "last.ckpt")
    tuned = read_checkpoint(folder / "last.ckpt")["state_dict"]
    assert torch.equal(encoder.state_dict()["0.weight"], tuned["encoder_q.0.weight"])
    assert (spec.unit, spec.mean, spec.std) == ("picture", (0.0,) * 3, (1.0,) * 3)


def test_every_share_and_seed_has_a_folder(eurosat: list[str]) -> None:
    more = ["--train_frac", "1", "0.67", "--num_seeds", "2", "--finetune_epochs", "1"]
    more += ["--batch_size", "30"]
    _, run_dir = run(eurosat, *more)
    found = sorted(str(path.relative_to(run_dir)) for path in run_dir.glob("**/best.ckpt"))
    assert found == [
        f"frac={frac}/seed={seed}/checkpoints/best.ckpt"
        for frac in ("0.67", "1")
        for seed in (42, 43)
    ]
    with (run_dir / "frac=1/seed=43/metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["val/score"] for row in rows if row["val/score"]]
    assert [row["train/loss"] for row in rows if row["train/loss"]]
    origin = json.loads((run_dir / "frac=1/seed=43/checkpoints/arguments.json").read_text())
    alone = {"num_seeds": 1, "seed": 43, "train_frac": [1.0], "method": ["finetune"]}
    assert origin["arguments"] == origin["arguments"] | alone  # the flags that resume it


def test_another_run_is_not_resumed(
    eurosat: list[str], eurosat_run: Finished, eurosat_stopped: Path, tmp_path: Path
) -> None:
    logs = tmp_path / "other"
    resume = ["--resume_from_checkpoint", str(eurosat_stopped), "--log_dir", str(logs)]
    for extra, message in (
        (
            ["--base_encoder", "resnet34"],
            "--base_encoder resnet34 contradicts .*, which has resnet18_slim",
        ),
        (["--seed", "7"], "--seed 7 contradicts the run of .*, which has 42: leave it out"),
        (["--train_frac", "0.67"], r"--train_frac 0\.67 contradicts .* has 1\.0: leave it out"),
        (["--finetune_learning_rate", "0.1"], r"0\.1 contradicts .* has 0\.0001: leave it out"),
        (["--batch_size", "4"], "was trained with samples_per_step 16, not 4"),
        (["--num_seeds", "2"], "--num_seeds 2 contradicts .* has 1: leave it out"),
        (["--train_frac", "0.67", "1"], r"--train_frac 0\.67 1\.0 contradicts"),
        (["--method", "linear", "finetune"], "--method linear finetune contradicts"),
    ):
        with pytest.raises(UserError, match=message):
            main_eurosat.main([*eurosat[1:], *resume, *extra])
    for name, message in (
        ("last", "has its 2 epochs already: raise --finetune_epochs above 2"),
        ("best", "cannot be resumed"),
    ):
        whole = eurosat_run.run_dir / f"seed=42/checkpoints/{name}.ckpt"
        with pytest.raises(UserError, match=message):
            main_eurosat.main([*eurosat[1:], *resume, "--resume_from_checkpoint", str(whole)])
    assert not logs.exists()


@pytest.mark.parametrize(
    ("script", "flag"), [("eurosat", "--finetune_epochs"), ("bigearthnet", "--max_epochs")]
)
def test_a_finished_run_is_extended_at_the_rate_that_it_had_in_the_end(
    script: str, flag: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = request.getfixturevalue(f"{script}_run").run_dir
    path = run_dir / "seed=42/checkpoints/last.ckpt"
    command = request.getfixturevalue(script)
    _, longer = run(command, "--resume_from_checkpoint", str(path), flag, "3")
    states = [last(folder)["lr_schedulers"][0] for folder in (run_dir, longer)]
    assert (last(longer)["epoch"], states[1]["last_epoch"]) == (2, 3)
    assert states[0]["milestones"] == states[1]["milestones"]
    assert states[0]["_last_lr"] == states[1]["_last_lr"]
    said = "the learning rate falls after epoch 1, as in the first start" in capsys.readouterr().err
    assert said == (script == "eurosat")


def in_two_processes(command: list[str], *more: str) -> Path:
    """Run a script with two processes; return its new folder."""
    logs = Path(command[command.index("--log_dir") + 1])
    before = set(logs.glob("*/version_*"))
    done = in_processes(*command, "--num_processes", "2", *more)
    assert done.returncode == 0, done.stderr[-2000:]
    (created,) = set(logs.glob("*/version_*")) - before
    return created


@pytest.mark.slow
@pytest.mark.difference("ben-randomness")
def test_two_processes_resume_to_the_same_bits(bigearthnet: list[str]) -> None:
    """Each has its own share of the order, and its own dropout."""
    command = [*bigearthnet, "--milestones", "1"]
    short = in_two_processes(command, "--max_epochs", "1")
    path = short / "seed=42/checkpoints/last.ckpt"
    resumed = in_two_processes(command, "--resume_from_checkpoint", str(path))
    unbroken = in_two_processes(command)
    for part in ("state_dict", "optimizer_states", "best"):
        assert_same_bits(last(unbroken)[part], last(resumed)[part])
    results = [json.loads((folder / "results.json").read_text()) for folder in (resumed, unbroken)]
    name = "val/map_micro_batch_mean"
    assert results[0]["metrics"][name] == results[1]["metrics"][name]

"""The script from its flags to its files, on a miniature Earth."""

import csv
import json
import re
import shutil
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import main_report
from datasets import seco_utils
from main_pretrain import main, make_datamodule, make_model, parse_args
from models.moco2_module import MocoV2
from models.run_timing import TIMING
from tests.references.pretraining import SMALL, assert_equal, pretrain, run_dirs, tensors
from tests.references.script import as_flags
from utils.errors import UserError
from utils.history import read_history
from utils.launch import World
from utils.precision import PRECISIONS
from utils.training import prepare


class Stopped(Exception):
    """Holds the arguments that a run would have used."""


def stop_at(args: Namespace, *others: object, **more: object) -> None:
    raise Stopped(args)


@pytest.fixture(scope="module")
def two_epochs(seco_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    log_dir = tmp_path_factory.mktemp("logs")
    flags = ["--max_epochs", "2", "--save_every_n_epochs", "1"]
    return pretrain(seco_root, log_dir, *flags, draw=True)


def test_odd_views_in_batches_of_two_train(seco_root: Path, tmp_path: Path) -> None:
    flags = ["--batch_size", "2", "--crop_size", "33", "--max_epochs", "1", "--logger", "none"]
    run_dir = pretrain(seco_root, tmp_path, *flags)
    results = json.loads((run_dir / "results.json").read_text())
    assert results["metrics"]["steps"] == 3
    assert results["metrics"]["train/loss"] > 0
    assert not [*run_dir.glob("metrics.csv"), *run_dir.glob("events*")]
    assert np.load(run_dir / "views.png").shape[1:4] == (2, 33, 33)


def test_a_run_leaves_whole_files(two_epochs: Path) -> None:
    names = {path.relative_to(two_epochs).as_posix() for path in two_epochs.rglob("*")}
    assert {
        *("checkpoints/last.ckpt", "checkpoints/epoch=1.ckpt", "checkpoints/epoch=2.ckpt"),
        *("checkpoints/arguments.json", "views.png", "curves.png", "metrics.csv", "results.json"),
        "timing.csv",
    } <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert not [name for name in names if "partial" in name]
    results = json.loads((two_epochs / "results.json").read_text())
    assert results["metrics"]["steps"] == 4
    assert results["metrics"]["epochs"] == 2
    assert results["arguments"]["crop_size"] == 32
    assert results["arguments"]["precision"] in PRECISIONS  # not "auto"
    assert results["versions"]["torch"] == torch.__version__.split("+")[0] or "+" in str(results)
    for row in read_history(two_epochs / TIMING):
        assert row["samples_per_s"] > 0
        assert row["learning_rate"] == pytest.approx(0.03)
        assert 0 <= row["waiting_percent"] <= 100
        assert 0.05 < row["peak_memory_gb"] < 100
    spaces = [f"train/{kind}_{s}" for s in range(3) for kind in ("loss", "accuracy", "spread")]
    assert set(spaces) <= results["metrics"].keys()
    of_spaces = [results["metrics"][f"train/loss_{space}"] for space in range(3)]
    assert results["metrics"]["train/loss"] == pytest.approx(sum(of_spaces))  # not their mean
    with Image.open(two_epochs / "views.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 10


@pytest.mark.difference("checkpoints")
def test_the_checkpoint_holds_plain_values_and_the_input_contract(two_epochs: Path) -> None:
    checkpoint = torch.load(two_epochs / "checkpoints/last.ckpt", weights_only=True)
    hyper_parameters = checkpoint["hyper_parameters"]
    assert hyper_parameters["base_encoder"] == "resnet18_slim"
    assert hyper_parameters["input_spec"]["bands"] == ["B4", "B3", "B2"]
    assert hyper_parameters["input_spec"]["high"] == [129.0, 103.0, 88.0]
    assert "queue" in checkpoint["state_dict"]


@pytest.mark.difference("seed")
def test_a_run_is_repeated_from_its_config_to_the_same_bits(
    two_epochs: Path, tmp_path: Path
) -> None:
    config = two_epochs / "config.yaml"
    main(["--config", str(config), "--log_dir", str(tmp_path), "--num_workers", "2"])
    (again,) = run_dirs(tmp_path)
    assert_equal(
        tensors(two_epochs / "checkpoints/last.ckpt"), tensors(again / "checkpoints/last.ckpt")
    )


def model_of(data_dir: Path, *flags: str) -> MocoV2:
    """Build the model of a run that does not begin."""
    args = parse_args(["--data_dir", str(data_dir), *SMALL, *flags])
    world = prepare(args)
    return make_model(args, make_datamodule(args, world), world)


def test_a_config_is_compared_with_the_run_that_is_resumed(
    two_epochs: Path, tmp_path: Path
) -> None:
    config = tmp_path / "run.yaml"
    flags = ["--config", str(config), "--resume", "auto"]
    config.write_text(f"max_epochs: 3\nnum_workers: 1\nlog_dir: {two_epochs.parents[1]}\n")
    args = parse_args(flags)
    assert (args.max_epochs, args.num_workers, args.batch_size) == (3, 1, 3)
    assert args.resume_from_checkpoint == two_epochs / "checkpoints/last.ckpt"
    config.write_text("softmax_temperature: 0.5\n")
    with pytest.raises(UserError, match=r"--softmax_temperature 0\.5 contradicts the run of"):
        parse_args([*flags, "--log_dir", str(two_epochs.parents[1])])


def test_another_seed_starts_elsewhere(seco_root: Path) -> None:
    first, again, other = (
        model_of(seco_root, "--seed", seed).encoder_q.get_parameter("0.weight")
        for seed in ("1", "1", "2")
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def history(run_dir: Path) -> list[dict[str, str]]:
    """Return the rows of metrics.csv without the measured seconds."""
    with (run_dir / "metrics.csv").open(newline="") as file:
        return [
            {name: text for name, text in row.items() if "second" not in name}
            for row in csv.DictReader(file)
        ]


def test_a_checkpoint_alone_resumes_its_run_in_its_folder(
    two_epochs: Path, seco_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = pretrain(seco_root, tmp_path, "--max_epochs", "1")
    views = (first / "views.png").stat().st_mtime_ns
    last = first / "checkpoints/last.ckpt"
    assert capsys.readouterr().out.splitlines()[-3:] == [
        f"checkpoint: {last}",
        f"results: {first / 'results.json'}",
        f"next: python main_report.py {first} --data_dir {seco_root}",
    ]
    training = {"samples": 6, "samples_per_step": 3, "processes": 1}
    results = json.loads((first / "results.json").read_text())
    assert results["metrics"]["training"] == training
    assert json.loads((last.parent / "arguments.json").read_text())["training"] == training
    # The command is one that works.
    main_report.main([str(first), "--data_dir", str(seco_root)])
    digest = results["metrics"]["data"]["digest"]
    text = (first / "report.html").read_text()
    assert f"digest {digest}; the data of the pre-training are these." in text
    (last.parent / ".last.ckpt.99.partial").touch()  # of a process that was killed
    main(["--resume_from_checkpoint", str(last), "--max_epochs", "2"])
    assert sorted(path.name for path in last.parent.iterdir()) == [
        "arguments.json",
        "last.ckpt",
        "previous.ckpt",
    ]
    assert run_dirs(tmp_path) == [first]  # one folder, and in it one history
    assert_equal(tensors(two_epochs / "checkpoints/last.ckpt"), tensors(last))
    assert len(history(first)) == 2
    assert history(first) == history(two_epochs)
    for run_dir in (first, two_epochs):
        assert [row["step"] for row in read_history(run_dir / TIMING)] == [1, 3]
    assert (first / "views.png").stat().st_mtime_ns == views


def test_an_older_checkpoint_resumes_to_the_same_bits_and_leaves_the_later_history_alone(
    two_epochs: Path, tmp_path: Path
) -> None:
    before = (two_epochs / "metrics.csv").read_bytes()
    flags = ["--resume_from_checkpoint", str(two_epochs / "checkpoints/epoch=1.ckpt")]
    main([*flags, "--log_dir", str(tmp_path), "--num_workers", "2"])
    assert (two_epochs / "metrics.csv").read_bytes() == before
    (resumed,) = run_dirs(tmp_path)
    last = (run_dir / "checkpoints/last.ckpt" for run_dir in (two_epochs, resumed))
    assert_equal(*map(tensors, last))
    assert history(resumed) == history(two_epochs)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"arguments": 3}', "[" * 100_000])
def test_unreadable_flags_of_a_run_are_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "arguments.json").write_text(content)
    (tmp_path / "last.ckpt").touch()
    with pytest.raises(UserError, match=r"arguments\.json does not hold the flags of a run"):
        parse_args(["--resume_from_checkpoint", str(tmp_path / "last.ckpt")])


def test_stored_flags_are_checked_as_given_ones_are(tmp_path: Path) -> None:
    stored = {"arguments": {"batch_size": "many", "data_dir": ".", "unknown": 1}}
    (tmp_path / "arguments.json").write_text(json.dumps(stored))
    (tmp_path / "last.ckpt").touch()
    with pytest.raises(UserError, match="--batch_size: invalid int value: 'many'"):
        parse_args(["--resume_from_checkpoint", str(tmp_path / "last.ckpt")])


def test_grouped_batch_norm_resumes_and_shows_keys_next_to_their_queries(
    seco_root: Path, tmp_path: Path
) -> None:
    flags = ["--max_epochs", "2", "--batch_size", "4"]
    grouped = [*flags, "--bn_group_size", "2", "--save_every_n_epochs", "1"]
    whole = pretrain(seco_root, tmp_path / "0", *grouped)
    resume = ["--resume_from_checkpoint", str(whole / "checkpoints/epoch=1.ckpt")]
    resumed = pretrain(seco_root, tmp_path / "1", *grouped, *resume)
    last = [run_dir / "checkpoints/last.ckpt" for run_dir in (whole, resumed)]
    assert_equal(tensors(last[0]), tensors(last[1]))
    plain = pretrain(seco_root, tmp_path / "2", *flags, "--max_epochs", "1")
    views, shuffled = (np.load(run_dir / "views.png") for run_dir in (plain, whole))
    assert views.shape == (4, 4, 32, 32, 3)
    np.testing.assert_allclose(views, shuffled, atol=1 / 255)


def test_compiled_encoders_keep_the_names_of_their_tensors(
    two_epochs: Path, seco_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[torch.nn.Module] = []
    # Compiling takes minutes on the CPU.
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: compiled.append(module))
    model = model_of(seco_root, "--compile")
    assert [type(module).__name__ for module in compiled] == ["Encoder", "Encoder"]
    checkpoint = torch.load(two_epochs / "checkpoints/last.ckpt", weights_only=True)
    assert model.state_dict().keys() == checkpoint["state_dict"].keys()


def test_enlarged_crops_are_reported_once(
    seco_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("models.pretrain_run.pretrain_trainer", stop_at)
    with pytest.raises(Stopped):
        pretrain(seco_root, tmp_path, "--crop_size", "300")
    assert capsys.readouterr().err.count("crop_size 300 is more than the 48 x 48 pixels") == 1


def test_moco_takes_a_folder_of_pictures_and_debug_writes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(6):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    flags = ["--data_dir", str(folder), "--log_dir", str(tmp_path / "logs"), *SMALL, "--debug"]
    trainer = main([*flags, "--preset", "small_images", "--max_epochs", "1"])
    hparams: Any = trainer.lightning_module.hparams
    assert trainer.global_step == 2
    assert hparams.input_spec["bands"] == ["R", "G", "B"]
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]


def test_twelve_bands_train_once_their_quantiles_are_known(seco_root: Path, tmp_path: Path) -> None:
    copy = tmp_path / "seco"
    shutil.copytree(seco_root, copy)
    flags = ["--max_epochs", "1", "--bands", "B2", "B8", "B11", "B9"]
    with pytest.raises(UserError, match="seco_utils"):
        pretrain(copy, tmp_path / "logs", *flags)
    seco_utils.main(["--data_dir", str(copy)])
    run_dir = pretrain(copy, tmp_path / "logs", *flags)
    state = tensors(run_dir / "checkpoints/last.ckpt")
    assert state["encoder_q.0.weight"].shape[1] == 4


def test_a_dry_run_prints_the_plan_and_writes_nothing(
    two_epochs: Path,
    seco_root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log_dir = tmp_path / "logs"
    flags = [*as_flags(data_dir=seco_root, log_dir=log_dir), *SMALL, "--dry_run"]
    trainer = main([*flags, *as_flags(max_epochs=9, save_every_n_epochs=4)])
    lines = capsys.readouterr().out.splitlines()
    plan = dict(line.split(": ", 1) for line in lines if ": " in line)
    assert plan["data"] == f"6 samples in {seco_root}"
    assert plan["steps"] == "18 (9 epochs x 2)"
    assert trainer.global_step == 18
    assert "measured on 15 steps" in plan["speed"]
    size = (two_epochs / "checkpoints/last.ckpt").stat().st_size
    count, found = map(float, re.findall(r"([\d.]+) (?:checkpoints|GB;)", plan["disk"]))
    assert count == 2 + 2
    assert found == pytest.approx(size / 1e9, rel=0.1)
    assert float(plan["time"].split()[0]) < 1
    monkeypatch.setattr("shutil.disk_usage", lambda _: Namespace(free=size))
    with pytest.raises(UserError, match=r"GB free, but 0\.\d GB are needed: free"):
        main([*flags, "--max_epochs", "200"])
    assert not list(tmp_path.iterdir())


# --- flags ------------------------------------------------------------------------------------


def test_flags_of_the_original_reach_their_objects(seco_root: Path) -> None:
    args = parse_args(
        f"--data_dir {seco_root} --data_mode moco_tp --base_encoder resnet34 --emb_dim 64 "
        "--num_negatives 96 --encoder_momentum 0.9 --softmax_temperature 0.2 --learning_rate 0.5 "
        "--momentum 0.8 --weight_decay 0.01 --batch_size 5 --num_workers 3 --max_epochs 7 "
        "--schedule 4 6 --gpus 0 --accelerator ddp --precision 32 --debug".split()
    )
    datamodule = make_datamodule(args, World())
    datamodule.setup("fit")
    model = make_model(args, datamodule, World())
    hparams: Any = model.hparams
    assert (hparams.base_encoder, hparams.emb_dim, hparams.num_negatives) == ("resnet34", 64, 96)
    assert hparams.emb_spaces == 1
    assert (model.encoder_momentum, model.softmax_temperature) == (0.9, 0.2)
    optimizer = model.optimizer([torch.nn.Parameter(torch.zeros(1))])
    group = optimizer.param_groups[0]
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.5, 0.8, 0.01)
    assert model.lr_factor(5, args.max_epochs) == pytest.approx(0.1)
    assert (datamodule.batch_size, datamodule.num_workers) == (5, 3)


@pytest.mark.parametrize(("protocol", "is_paper"), [("paper", True), ("corrected", False)])
def test_the_paper_protocol_restores_draw_and_rounding(
    seco_root: Path, protocol: str, is_paper: bool
) -> None:
    args = parse_args(["--data_dir", str(seco_root), *SMALL, "--protocol", protocol])
    datamodule = make_datamodule(args, World())
    assert datamodule.replace_dates is is_paper
    assert datamodule.augment_config.round_to_uint8 is is_paper


# --- bad input --------------------------------------------------------------------------------


def test_a_bad_patch_stops_the_run_and_is_named(seco_root: Path, tmp_path: Path) -> None:
    data_dir = Path(shutil.copytree(seco_root, tmp_path / "seco"))
    for band in data_dir.glob("*1/*/B4.tif"):  # every date of the second place
        band.write_bytes(band.read_bytes()[:200])
    with pytest.raises(UserError, match=r"B4\.tif is not a readable GeoTIFF") as caught:
        pretrain(data_dir, tmp_path / "logs", "--batch_size", "6", "--max_epochs", "2")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ("--batch_size 7 --num_negatives 7", "6 samples"),
        ("--batch_size 5 --num_negatives 4", "--num_negatives 4"),
        ("--base_encoder resnet19", "resnet18"),
        ("--gpus 99", "--gpus 99"),
        ("--bands B4 B3 B13", "B13"),
        ("--resume_from_checkpoint nowhere.ckpt", "nowhere.ckpt does not exist"),
        ("--crop_scale 0.5 0.2", "--crop_scale"),
        ("--crop_size 0", "--crop_size"),
        ("--batch_size 1", "cannot be 1"),
        ("--bn_group_size 1", "cannot be 1"),
        ("--learning_rate inf", "--learning_rate must be above 0 and finite"),
        ("--momentum nan", r"--momentum must be in 0\.\.1"),
        ("--color_jitter nan 0 0 0", "--color_jitter"),
        ("--max_epochs 0", "--max_epochs"),
        ("--softmax_temperature 0", "--softmax_temperature"),
        ("--color_jitter 0.4 0.4 0.4 0.9", "--color_jitter"),
        ("--seed 4294967296", "--seed must be 0 or more and below"),
        ("--weight_decay -1", "--weight_decay must be 0 or more"),
        ("--blur_prob 1.5", r"--blur_prob must be in 0\.\.1, not 1\.5"),
        ("--encoder_momentum 2", r"--encoder_momentum must be in 0\.\.1"),
        ("--precision 17", r"invalid choice: '17' .*bf16-mixed"),
        ("--bn_group_size 4", "--bn_group_size 4 is more than the 3 images"),
    ],
)
def test_flags_that_cannot_work_are_refused_before_anything_is_written(
    seco_root: Path, tmp_path: Path, flags: str, named: str
) -> None:
    with pytest.raises(UserError, match=named):
        pretrain(seco_root, tmp_path, *flags.split())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ("--num_negatives 9", "--num_negatives 9 contradicts the run of .*, which has 8"),
        ("--bands B2 B3 B4", "--bands B2 B3 B4 contradicts .*, which has B4 B3 B2: leave it out"),
        ("--learning_rate 0.5", r"--learning_rate 0\.5 contradicts .*, which has 0\.03"),
        ("--crop_size 48", "--crop_size 48 contradicts .*, which has 32"),
        ("--preset small_images", "contradicts"),
        ("--max_epochs 2", "has its 2 epochs already"),
        ("--batch_size 2", "3 samples per step, not 2"),
    ],
)
def test_resuming_with_other_flags_or_a_finished_run_is_refused(
    two_epochs: Path, seco_root: Path, tmp_path: Path, other: str, named: str
) -> None:
    flags = ["--resume_from_checkpoint", str(two_epochs / "checkpoints/last.ckpt")]
    with pytest.raises(UserError, match=named):
        pretrain(seco_root, tmp_path, *flags, "--max_epochs", "3", *other.split())
    assert not list(tmp_path.iterdir())


@pytest.mark.difference("nan")
def test_a_loss_of_nan_stops_the_run_and_keeps_the_last_good_checkpoint(
    seco_root: Path, tmp_path: Path
) -> None:
    flags = ["--batch_size", "6", "--max_epochs", "5", "--learning_rate", "1e30"]
    with pytest.raises(UserError, match=r"not finite at step 1.*4 steps were skipped"):
        pretrain(seco_root, tmp_path, *flags)
    (run_dir,) = run_dirs(tmp_path)
    checkpoint = torch.load(run_dir / "checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 1


def test_weights_that_the_last_step_broke_replace_no_checkpoint(
    seco_root: Path, tmp_path: Path
) -> None:
    flags = ["--batch_size", "6", "--max_epochs", "5", "--learning_rate", "1e38"]
    with pytest.raises(UserError, match="weights are not finite at step 0"):
        pretrain(seco_root, tmp_path, *flags, "--weight_decay", "1e10")
    assert not list(tmp_path.rglob("*.ckpt"))

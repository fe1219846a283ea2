"""The script from its flags to its files, on a miniature Earth."""

import csv
import json
import shutil
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image

from datasets import seco_utils
from main_pretrain import PRESETS, main, make_datamodule, make_model, parse_args
from tests.references.pretraining import SMALL, assert_equal, pretrain, run_dirs, tensors
from utils.errors import UserError
from utils.launch import World
from utils.precision import PRECISIONS

ROOT = Path(__file__).resolve().parents[2]


class Stopped(Exception):
    """Holds the arguments that a run would have gone on with."""


def stop_at(args: Namespace, *others: object) -> None:
    raise Stopped(args)


@pytest.fixture(scope="module")
def two_epochs(seco_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    log_dir = tmp_path_factory.mktemp("logs")
    return pretrain(seco_root, log_dir, "--max_epochs", "2", "--save_every_n_epochs", "1")


def test_a_run_leaves_whole_files(two_epochs: Path) -> None:
    names = {path.relative_to(two_epochs).as_posix() for path in two_epochs.rglob("*")}
    assert {
        *("checkpoints/last.ckpt", "checkpoints/epoch=1.ckpt", "checkpoints/epoch=2.ckpt"),
        *("checkpoints/arguments.json", "views.png", "curves.png", "metrics.csv", "results.json"),
    } <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert not [name for name in names if "partial" in name]
    results = json.loads((two_epochs / "results.json").read_text())
    assert results["metrics"]["steps"] == 4
    assert results["metrics"]["epochs"] == 2
    assert results["arguments"]["crop_size"] == 32
    assert results["arguments"]["precision"] in PRECISIONS  # not "auto"
    assert results["versions"]["torch"] == torch.__version__.split("+")[0] or "+" in str(results)
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
    assert hyper_parameters["base_encoder"] == "resnet18"
    assert hyper_parameters["input_spec"]["bands"] == ["B4", "B3", "B2"]
    assert hyper_parameters["input_spec"]["high"] == [129.0, 103.0, 88.0]
    assert "queue" in checkpoint["state_dict"]


def test_the_last_lines_name_checkpoint_and_results(
    seco_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = pretrain(seco_root, tmp_path, "--max_epochs", "1", "--data_mode", "moco_tp")
    last = run_dir / "checkpoints/last.ckpt"
    lines = capsys.readouterr().out.splitlines()[-3:]
    assert lines == [
        f"checkpoint: {last}",
        f"results: {run_dir / 'results.json'}",
        "next: python main_eurosat.py --data_dir EuroSAT_RGB.zip --backbone_type pretrain "
        f"--ckpt_path {last}",
    ]


@pytest.mark.difference("seed")
def test_two_identical_runs_end_with_the_same_bits(
    two_epochs: Path, seco_root: Path, tmp_path: Path
) -> None:
    again = pretrain(seco_root, tmp_path, "--max_epochs", "2", "--num_workers", "2")
    assert_equal(
        tensors(two_epochs / "checkpoints/last.ckpt"), tensors(again / "checkpoints/last.ckpt")
    )


def test_another_seed_ends_elsewhere(two_epochs: Path, seco_root: Path, tmp_path: Path) -> None:
    other = pretrain(seco_root, tmp_path, "--max_epochs", "2", "--seed", "1")
    first = tensors(two_epochs / "checkpoints/last.ckpt")["encoder_q.0.weight"]
    assert not torch.equal(first, tensors(other / "checkpoints/last.ckpt")["encoder_q.0.weight"])


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_resumed_run_ends_with_the_same_bits(
    two_epochs: Path, seco_root: Path, tmp_path: Path, workers: str
) -> None:
    flags = ["--resume_from_checkpoint", str(two_epochs / "checkpoints/epoch=1.ckpt")]
    resumed = pretrain(seco_root, tmp_path, "--max_epochs", "2", "--num_workers", workers, *flags)
    assert_equal(
        tensors(two_epochs / "checkpoints/last.ckpt"), tensors(resumed / "checkpoints/last.ckpt")
    )


def history(run_dir: Path) -> list[dict[str, str]]:
    """Return the rows of metrics.csv without the measured seconds."""
    with (run_dir / "metrics.csv").open(newline="") as file:
        return [
            {name: text for name, text in row.items() if "second" not in name}
            for row in csv.DictReader(file)
        ]


def test_a_checkpoint_alone_resumes_its_run_in_its_folder(
    two_epochs: Path, seco_root: Path, tmp_path: Path
) -> None:
    first = pretrain(seco_root, tmp_path, "--max_epochs", "1")
    views = (first / "views.png").stat().st_mtime_ns
    last = first / "checkpoints/last.ckpt"
    main(["--resume_from_checkpoint", str(last), "--max_epochs", "2"])
    assert run_dirs(tmp_path) == [first]  # one folder, and in it one history
    assert_equal(tensors(two_epochs / "checkpoints/last.ckpt"), tensors(last))
    assert len(history(first)) == 2
    assert history(first) == history(two_epochs)
    assert (first / "views.png").stat().st_mtime_ns == views


def test_an_older_checkpoint_leaves_the_later_history_alone(
    two_epochs: Path, tmp_path: Path
) -> None:
    before = (two_epochs / "metrics.csv").read_bytes()
    checkpoint = str(two_epochs / "checkpoints/epoch=1.ckpt")
    main(["--resume_from_checkpoint", checkpoint, "--log_dir", str(tmp_path)])
    assert (two_epochs / "metrics.csv").read_bytes() == before
    (resumed,) = run_dirs(tmp_path)
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


def test_grouped_batch_norm_resumes_with_the_same_bits(seco_root: Path, tmp_path: Path) -> None:
    flags = ["--max_epochs", "2", "--batch_size", "4", "--bn_group_size", "2"]
    whole = pretrain(seco_root, tmp_path, *flags, "--save_every_n_epochs", "1") / "checkpoints"
    resume = ["--resume_from_checkpoint", str(whole / "epoch=1.ckpt")]
    resumed = pretrain(seco_root, tmp_path, *flags, *resume)
    assert_equal(tensors(whole / "last.ckpt"), tensors(resumed / "checkpoints/last.ckpt"))


def test_compiled_encoders_keep_the_names_of_their_tensors(
    two_epochs: Path, seco_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[torch.nn.Module] = []
    # Compiling takes minutes on the CPU.
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: compiled.append(module))
    run_dir = pretrain(seco_root, tmp_path, "--max_epochs", "1", "--compile")
    assert [type(module).__name__ for module in compiled] == ["Encoder", "Encoder"]
    names = tensors(run_dir / "checkpoints/last.ckpt").keys()
    assert names == tensors(two_epochs / "checkpoints/last.ckpt").keys()


@pytest.mark.parametrize(
    ("flags", "expected"),
    [("", "16-mixed"), ("--protocol paper", "32-true"), ("--precision 32", "32")],
)
@pytest.mark.difference("auto-precision")
def test_results_tell_which_precision_was_chosen(
    seco_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str, expected: str
) -> None:
    monkeypatch.setattr("utils.precision.auto_precision", lambda on_gpu: "16-mixed")
    monkeypatch.setattr("main_pretrain.make_trainer", stop_at)
    with pytest.raises(Stopped) as stopped:
        pretrain(seco_root, tmp_path, *flags.split())
    assert stopped.value.args[0].precision == expected


def test_the_picture_shows_shuffled_keys_beside_their_queries(
    seco_root: Path, tmp_path: Path
) -> None:
    flags = ["--max_epochs", "1", "--batch_size", "4"]
    pictures = []
    for number, more in enumerate(([], ["--bn_group_size", "2"])):
        run_dir = pretrain(seco_root, tmp_path / str(number), *flags, *more)
        with Image.open(run_dir / "views.png") as picture:
            pictures.append(np.asarray(picture.convert("RGB")).astype(int))
    assert np.abs(pictures[0] - pictures[1]).max() <= 2


def test_crops_that_are_enlarged_are_told_once(
    seco_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("main_pretrain.make_trainer", stop_at)
    with pytest.raises(Stopped):
        pretrain(seco_root, tmp_path, "--crop_size", "300")
    assert capsys.readouterr().err.count("--crop_size 300 is more than the 48 x 48 pixels") == 1


def test_debug_writes_nothing(seco_root: Path, tmp_path: Path) -> None:
    main(["--data_dir", str(seco_root), "--log_dir", str(tmp_path), *SMALL, "--debug"]
         + ["--max_epochs", "1"])  # fmt: skip
    assert not list(tmp_path.iterdir())


def test_moco_takes_a_folder_of_pictures(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(6):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    flags = ["--data_mode", "moco", "--preset", "small_images", "--max_epochs", "1"]
    run_dir = pretrain(folder, tmp_path / "logs", *flags)
    checkpoint = torch.load(run_dir / "checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["hyper_parameters"]["input_spec"]["bands"] == ["R", "G", "B"]


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
    model = make_model(args, datamodule, samples_per_step=5)
    hparams: Any = model.hparams
    assert (hparams.base_encoder, hparams.emb_dim, hparams.num_negatives) == ("resnet34", 64, 96)
    assert hparams.emb_spaces == 1
    assert (model.encoder_momentum, model.softmax_temperature) == (0.9, 0.2)
    optimizer = model.optimizer([torch.nn.Parameter(torch.zeros(1))])
    group = optimizer.param_groups[0]
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.5, 0.8, 0.01)
    assert model.lr_factor(5, args.max_epochs) == pytest.approx(0.1)
    assert (datamodule.batch_size, datamodule.num_workers) == (5, 3)


def test_defaults_are_those_of_the_original() -> None:
    args = parse_args(["--data_dir", "x"])
    assert (args.batch_size, args.learning_rate, args.max_epochs) == (256, 0.03, 200)
    assert (args.emb_dim, args.num_negatives, args.encoder_momentum) == (128, 16384, 0.999)
    assert (args.softmax_temperature, args.momentum, args.weight_decay) == (0.07, 0.9, 1e-4)
    assert (args.schedule, args.data_mode, args.base_encoder) == ([120, 160], "seco", "resnet18")


def test_a_flag_wins_over_its_preset() -> None:
    assert PRESETS["small_images"]
    for flags in (["--preset", "small_images"], []):
        args = parse_args(["--data_dir", "x", *flags, "--softmax_temperature", "0.5"])
        assert args.softmax_temperature == 0.5
    assert not parse_args(["--data_dir", "x", "--preset", "small_images", "--no-rotate"]).rotate
    preset = parse_args(["--data_dir", "x", "--preset", "small_images"])
    for name, value in PRESETS["small_images"].items():
        assert getattr(preset, name) == value


@pytest.mark.parametrize(("protocol", "is_paper"), [("paper", True), ("corrected", False)])
def test_the_paper_protocol_restores_draw_and_rounding(
    seco_root: Path, protocol: str, is_paper: bool
) -> None:
    args = parse_args(["--data_dir", str(seco_root), "--protocol", protocol])
    datamodule = make_datamodule(args, World())
    assert datamodule.replace_dates is is_paper
    assert datamodule.augment_config.round_to_uint8 is is_paper


# --- bad input --------------------------------------------------------------------------------


def broken_copy(root: Path, target: Path, what: str) -> Path:
    """Copy a SeCo folder and break a band at every date of its second place."""
    shutil.copytree(root, target)
    for band in sorted(target.glob("*1/*/B4.tif")):
        if what == "truncated":
            band.write_bytes(band.read_bytes()[:200])
        elif what == "missing":
            band.unlink()
        else:
            with rasterio.open(band) as file:
                profile = file.profile
            for path in band.parent.glob("B[234].tif"):
                with rasterio.open(path, "w", **profile) as file:
                    file.write(np.zeros((1, profile["height"], profile["width"]), np.uint8))
    return target


@pytest.mark.parametrize(
    ("what", "named"), [("truncated", "B4.tif"), ("missing", "B4.tif"), ("zero", "zero")]
)
def test_a_bad_patch_stops_the_run_and_is_named(
    seco_root: Path, tmp_path: Path, what: str, named: str
) -> None:
    data_dir = broken_copy(seco_root, tmp_path / "seco", what)
    with pytest.raises(UserError, match=named) as caught:
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
        ("--resume_from_checkpoint nowhere.ckpt", "nowhere.ckpt"),
        ("--crop_scale 0.5 0.2", "--crop_scale"),
        ("--crop_size 0", "--crop_size"),
        ("--batch_size 1", "cannot be 1"),
        ("--bn_group_size 1", "cannot be 1"),
        ("--learning_rate inf", "--learning_rate must be above 0 and finite"),
        ("--momentum nan", "--momentum must be 0 or more and finite"),
        ("--color_jitter nan 0 0 0", "--color_jitter"),
        ("--max_epochs 0", "--max_epochs"),
        ("--softmax_temperature 0", "--softmax_temperature"),
        ("--color_jitter 0.4 0.4 0.4 0.9", "--color_jitter"),
        ("--gpus -1", "--gpus must be 0 or more"),
        ("--num_workers -1", "--num_workers"),
        ("--seed -1", "--seed"),
        ("--seed 4294967296", "--seed must be 0 or more and below"),
        ("--momentum -1", "--momentum"),
        ("--weight_decay -1", "--weight_decay"),
        ("--warmup_epochs -1", "--warmup_epochs"),
        ("--bn_group_size -2", "--bn_group_size"),
        ("--bn_group_size 4", "--bn_group_size 4 is more than the 3 images"),
    ],
)
def test_flags_that_cannot_work_are_refused_before_anything_is_written(
    seco_root: Path, tmp_path: Path, flags: str, named: str
) -> None:
    with pytest.raises(UserError, match=named):
        pretrain(seco_root, tmp_path, *flags.split())
    assert not list(tmp_path.iterdir())


def test_unknown_precision_is_refused_before_anything_is_written(
    seco_root: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"invalid choice: '17' .*bf16-mixed"):
        pretrain(seco_root, tmp_path, "--precision", "17")
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
def test_resuming_what_does_not_go_on_is_refused(
    two_epochs: Path, seco_root: Path, tmp_path: Path, other: str, named: str
) -> None:
    flags = ["--resume_from_checkpoint", str(two_epochs / "checkpoints/last.ckpt")]
    with pytest.raises(UserError, match=named):
        pretrain(seco_root, tmp_path, *flags, "--max_epochs", "3", *other.split())
    assert not list(tmp_path.iterdir())


def test_resuming_from_no_checkpoint_is_refused(seco_root: Path, tmp_path: Path) -> None:
    (tmp_path / "text.ckpt").write_text("not a checkpoint")
    flags = ["--resume_from_checkpoint", str(tmp_path / "text.ckpt")]
    with pytest.raises(UserError, match=r"text\.ckpt"):
        pretrain(seco_root, tmp_path / "logs", *flags)


@pytest.mark.difference("nan")
def test_a_loss_of_nan_stops_the_run_and_keeps_the_last_good_checkpoint(
    seco_root: Path, tmp_path: Path
) -> None:
    flags = ["--batch_size", "6", "--max_epochs", "5", "--learning_rate", "1e30"]
    with pytest.raises(UserError, match="not finite at step 1"):
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


def test_user_errors_end_with_one_sentence_and_a_non_zero_exit_code(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "main_pretrain.py", "--data_dir", tmp_path / "nowhere", "--gpus", "0"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "nowhere" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1

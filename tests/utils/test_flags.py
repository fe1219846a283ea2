"""The command line of every script: suggestions, groups, defaults, paths."""

from pathlib import Path

import pytest

import main_bigearthnet
import main_eurosat
import main_oscd
import main_pretrain
from utils.cli import GROUPS
from utils.errors import UserError
from utils.files import check_checkpoint, check_exists
from utils.flags import Parser

SCRIPTS = [main_pretrain, main_eurosat, main_bigearthnet, main_oscd]


@pytest.mark.parametrize(
    ("wrong", "suggested"),
    [
        ("--epochs", "--max_epochs"),
        ("--max-epochs", "--max_epochs"),
        ("--Max_Epochs", "--max_epochs"),
        ("--batch-size=4", "--batch_size"),
        ("--batchsize", "--batch_size"),
        ("--lr", "--learning_rate"),
        ("-lr", "--learning_rate"),
        ("--workers", "--num_workers"),
        ("--arch", "--base_encoder"),
        ("--resume", "--resume_from_checkpoint"),
        ("--moco-k", "--num_negatives"),
        ("--crop_sise", "--crop_size"),
        ("--gpu", "--gpus"),
    ],
)
def test_foreign_and_misspelt_flags_get_a_suggestion(wrong: str, suggested: str) -> None:
    with pytest.raises(UserError) as refused:
        main_pretrain.parse_args(["--data_dir", "x", wrong, "3"])
    name = wrong.split("=")[0]
    assert str(refused.value) == f"{name} is not a flag: did you mean {suggested}? See --help"


def test_a_flag_like_no_other_gets_none() -> None:
    with pytest.raises(UserError, match=r"^--qqqq is not a flag; see --help$"):
        main_pretrain.parse_args(["--data_dir", "x", "--qqqq"])


def test_a_misspelt_flag_is_named_before_the_one_that_is_missing() -> None:
    with pytest.raises(UserError, match="did you mean --data_dir"):
        main_pretrain.parse_args(["--data_dri", "x"])


@pytest.mark.parametrize("text", ["-1", "-.5"])
def test_negative_numbers_are_values(text: str) -> None:
    args = main_pretrain.parse_args(["--data_dir", "x", "--weight_decay", text])
    assert args.weight_decay == float(text)


def test_text_without_a_flag_is_named() -> None:
    with pytest.raises(UserError, match=r"unrecognized arguments: stray; see --help"):
        main_pretrain.parse_args(["--data_dir", "x", "stray"])


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_help_is_in_groups_and_whole_sentences(
    script: object, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        script.parse_args(["--help"])  # type: ignore[attr-defined]
    shown = capsys.readouterr().out
    places = [shown.find(f"\n{title}:\n") for title in GROUPS]
    assert [place for place in places if place >= 0] == sorted(p for p in places if p >= 0)
    assert {"data", "model", "training", "devices", "evaluation", "output"} <= {
        title for title, place in zip(GROUPS, places, strict=True) if place >= 0
    }


def test_only_flags_on_the_command_line_are_given() -> None:
    parser = Parser()
    parser.add_argument("--a", type=int, default=1)
    parser.add_argument("--b", type=int, default=2)
    parser.add_argument("--c", action="store_true")
    assert parser.parse_given(["--b", "2"]) == {"b": 2}
    parser.set_defaults(a=5)
    assert vars(parser.with_defaults({"b": 3})) == {"a": 5, "b": 3, "c": False}


def test_defaults_are_shown_as_they_are_typed(capsys: pytest.CaptureFixture[str]) -> None:
    parser = Parser("text")
    parser.add_argument("--bands", nargs="+", default=["B4", "B3"], help="Bands in order.")
    parser.add_argument("--share", default=0.5, help="50 %% of it.")
    with pytest.raises(SystemExit):
        parser.parse_args(["--help"])
    shown = capsys.readouterr().out
    assert "Bands in order (default: B4 B3)." in shown
    assert "50 % of it (default: 0.5)." in shown


# --- paths ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["s3://bucket/set", "gs://bucket/set"])
def test_buckets_are_not_looked_for_on_the_disk(address: str) -> None:
    check_exists("data_dir", Path(address))


def test_a_missing_path_is_shown_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"--data_dir {tmp_path}/a/b does not exist"):
        check_exists("data_dir", Path("a/b"))


@pytest.mark.parametrize(
    ("files", "named", "suggested"),
    [
        (["checkpoints/last.ckpt"], "", "checkpoints/last.ckpt"),
        (["checkpoints/last.ckpt"], "checkpoints", "checkpoints/last.ckpt"),
        (["last.ckpt", "checkpoints/last.ckpt"], "", "checkpoints/last.ckpt"),
        (["seed=42/checkpoints/last.ckpt"], "", "seed=42/checkpoints/last.ckpt"),
        (["seed=42/last.ckpt"], "", "seed=42/last.ckpt"),
        (["version_0/checkpoints/last.ckpt", "version_1/checkpoints/last.ckpt"], "", "version_1"),
    ],
)
def test_the_folder_of_a_run_is_answered_by_its_checkpoint(
    files: list[str], named: str, suggested: str, tmp_path: Path
) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=f"is a folder: did you mean {tmp_path}/{suggested}"):
        check_checkpoint("ckpt_path", tmp_path / named)


def test_another_folder_is_no_checkpoint_but_that_of_timm_is(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder: name a file"):
        check_checkpoint("ckpt_path", tmp_path)
    (tmp_path / "config.json").touch()
    check_checkpoint("ckpt_path", tmp_path)

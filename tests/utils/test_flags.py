"""The command line of every script: suggestions, groups and defaults."""

from argparse import Namespace
from types import ModuleType

import pytest

import main_bigearthnet
import main_eurosat
import main_oscd
import main_pretrain
from utils.cli import GROUPS
from utils.errors import UserError
from utils.flags import Parser, check_not_negative, check_positive

SCRIPTS = [main_pretrain, main_eurosat, main_bigearthnet, main_oscd]
SUGGESTED = "{} is not a flag: did you mean {}? See --help"


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        *(("--epochs", "--max_epochs"), ("--max-epochs", "--max_epochs")),
        *(("--Max_Epochs", "--max_epochs"), ("--batch-size=4", "--batch_size")),
        *(("--batchsize", "--batch_size"), ("--lr", "--learning_rate"), ("-lr", "--learning_rate")),
        *(("--workers", "--num_workers"), ("--arch", "--base_encoder")),
        ("--moco-k", "--num_negatives"),
        *(("--crop_sise", "--crop_size"), ("--gpu", "--gpus")),
    ],
)
def test_foreign_and_misspelt_flags_get_a_suggestion(wrong: str, meant: str) -> None:
    with pytest.raises(UserError) as refused:
        main_pretrain.parse_args(["--data_dir", "x", wrong, "3"])
    assert str(refused.value) == SUGGESTED.format(wrong.split("=")[0], meant)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--data_dir x --qqqq", r"^--qqqq is not a flag; see --help$"),
        ("--data_dri x", "did you mean --data_dir"),  # and not that it is missing
        ("--data_dir x stray", r"unrecognized arguments: stray; see --help"),
    ],
)
def test_other_mistakes_are_named(flags: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        main_pretrain.parse_args(flags.split())


@pytest.mark.parametrize("text", ["-1", "-.5"])
def test_negative_numbers_are_values(text: str) -> None:
    args = main_pretrain.parse_args(["--data_dir", "x", "--weight_decay", text])
    assert args.weight_decay == float(text)


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), 2**32])
def test_numbers_out_of_range_are_named_with_their_flag(value: float) -> None:
    args = Namespace(other=None, batch_size=value)
    with pytest.raises(UserError, match=r"--batch_size must be above 0 and (below 4,|finite)"):
        check_positive(args, "other", "batch_size")
    if value == 0:
        check_not_negative(args, "other", "batch_size")
    else:
        with pytest.raises(UserError, match="--batch_size must be 0 or more and"):
            check_not_negative(args, "other", "batch_size")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_help_is_in_groups(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        script.parse_args(["--help"])
    shown = capsys.readouterr().out
    places = {title: shown.find(f"\n{title}:\n") for title in GROUPS}
    found = [place for place in places.values() if place >= 0]
    assert found == sorted(found)
    assert len(found) >= len(GROUPS) - 1
    assert places["views"] >= 0 or script is not main_pretrain


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

"""The command line of every script: suggestions, groups and defaults."""

import ast
import re
from argparse import Action, Namespace
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import main_bigearthnet
import main_embed
import main_eurosat
import main_oscd
import main_pretrain
import main_report
from datasets import download, mini_earth, seco_downloader, seco_packed, seco_utils, verify
from datasets.bigearthnet import command as bigearthnet_command
from datasets.miniature.services import __main__ as services
from models import export
from utils.cli import GROUPS
from utils.errors import UserError
from utils.flags import Parser, check_not_negative, check_positive

SCRIPTS = [main_pretrain, main_eurosat, main_bigearthnet, main_oscd]
# Command lines that are complete, with a folder of data.
MAINS: dict[Callable[..., Any], str] = {
    **{script.main: "--data_dir {}" for script in SCRIPTS},
    seco_packed.main: "--data_dir {0} --save_path {0}/new",
    seco_utils.main: "--data_dir {}",
    bigearthnet_command.main: "--data_dir {0} --save_dir {0}/new",
    mini_earth.main: "--dataset seco --save_path {}/new --num_places 1",
    seco_downloader.main: "--save_path {}/new --plan",
    services.main: "",
    main_embed.main: "--data_dir {0} --save_path {0}/e.npz",
    verify.main: "{}",
}
# Flags for which 0 makes sense, and shares, for which numbers above 1 do not.
MAY_BE_ZERO = {
    *("num_workers", "seed", "gpus", "split_seed", "port", "latency", "fault_share"),
    *("color_jitter", "jitter_prob", "grayscale_prob", "blur_prob", "encoder_momentum"),
    *("momentum", "weight_decay", "warmup_epochs", "bn_group_size", "spares", "max_shift_days"),
    *("clear_threshold", "clear_fraction", "min_free_gb", "max_bad_steps", "max_nodata"),
}
SHARES = {
    *("jitter_prob", "grayscale_prob", "blur_prob", "encoder_momentum", "momentum", "crop_scale"),
    *("train_frac", "val_frac", "fault_share", "clear_fraction", "clear_threshold"),
    "max_nodata",
}
# Flags of git, SLURM and docker, and modules of classes that are also used without a script.
FOREIGN = {
    *("abbrev", "always", "dirty", "exclude", "array", "cpus-per-task", "nodes"),
    *("ntasks-per-node", "nproc_per_node", "shm-size"),
}
CLASSES = {"loaders.py", "oscd_dataset.py", "pictures.py", "samples.py"}
ROOT = Path(__file__).resolve().parents[2]
SUGGESTED = "{} is not a flag: did you mean {}? See --help"


def actions_of(main: Callable[..., Any]) -> list[Action]:
    """Return the flags of a script."""
    actions: list[Action] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Parser, "parse_known_args", lambda self, *_: actions.extend(self._actions))
        with pytest.raises(TypeError):  # nothing is parsed
            main([])
    return actions


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


@pytest.mark.parametrize("text", ["-1", "-.5", "-1e-4"])
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


@pytest.mark.parametrize("main", MAINS, ids=lambda main: main.__module__)
def test_numbers_that_make_no_sense_are_refused_by_every_flag(
    main: Callable[..., Any], tmp_path: Path
) -> None:
    flags, actions = MAINS[main].format(tmp_path).split(), actions_of(main)
    numeric = [each for each in actions if each.type in (int, float) or each.dest == "pos_weight"]
    assert numeric or main is bigearthnet_command.main
    for action in numeric:
        count = action.nargs if isinstance(action.nargs, int) else 1
        values = ["-1", "nan", "inf", "1e400"] + ["9" * 30] * (action.type is int)
        values += ["0"] * (action.dest not in MAY_BE_ZERO) + ["1.5"] * (action.dest in SHARES)
        for value in values if action.dest != "num_classes" else ["0"]:
            with pytest.raises(UserError) as refused:
                main([*flags, action.option_strings[0], *[value] * count])
            assert action.option_strings[0] in str(refused.value), value


def test_every_flag_that_a_text_names_exists_and_has_its_dashes() -> None:
    mains = (*MAINS, download.main, export.main, main_report.main)
    actions = [each for main in mains for each in actions_of(main)]
    flags = {option[2:] for each in actions for option in each.option_strings}
    bare = re.compile(rf"(?<![-\w`.])({'|'.join(flag for flag in flags if '_' in flag)})\b")
    faults = set()
    for pattern in ("main_*.py", "datasets/**/*.py", "models/*.py", "utils/*.py"):
        for path in ROOT.glob(pattern):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant):
                    named = set(re.findall(r"(?<![\w-])--([a-z][\w-]*)", str(node.value)))
                    faults |= {(path.name, flag) for flag in named - flags - FOREIGN}
                elif isinstance(node, ast.Raise) and path.name not in CLASSES:
                    texts = [x.value for x in ast.walk(node) if isinstance(x, ast.Constant)]
                    named = set(bare.findall(" ".join(map(str, texts))))
                    faults |= {(path.name, flag) for flag in named}
    assert not faults


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

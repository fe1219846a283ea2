"""Scripts end with the command that usually comes next; it is one that its script understands."""

import importlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import main_bigearthnet
import main_embed
import main_eurosat
import main_oscd
import main_pretrain
from datasets import mini_earth, seco_packed
from datasets.download import COLLECTIONS as DATA
from utils.cli import crop_for, print_next, sizes_for
from utils.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
PARSERS: dict[str, Callable[[Sequence[str]], Any]] = {
    "main_embed.py": main_embed.parse_args,
    "main_pretrain.py": main_pretrain.parse_args,
    "main_bigearthnet.py": main_bigearthnet.parse_args,
    "main_eurosat.py": main_eurosat.parse_args,
    "main_oscd.py": main_oscd.parse_args,
    "datasets/seco_packed.py": seco_packed.parse_args,
}
WEIGHTS = importlib.import_module("checkpoints.download").COLLECTIONS
COMMANDS = {name: collection.next_command for name, collection in (WEIGHTS | DATA).items()}


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_after_a_download_parse(name: str) -> None:
    script, *flags = COMMANDS[name]
    assert (ROOT / script).is_file()
    if script in PARSERS:
        PARSERS[script](flags)
    else:  # its flags are checked by running it in tests/datasets/bigearthnet
        assert script == "datasets/bigearthnet_dataset.py"
        assert flags[::2] == ["--data_dir", "--save_dir"]


@pytest.mark.parametrize("dataset", mini_earth.NEXT)
def test_commands_after_a_miniature_parse(
    dataset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    count = {"eurosat": "10", "oscd": "2"}.get(dataset, "3")
    size = [] if dataset == "bigearthnet" else ["--size", "32"]
    root = tmp_path / "my data"
    flags = ["--dataset", dataset, "--save_path", str(root), "--num_places", count, *size]
    mini_earth.main([*flags, "--num_workers", "1"])
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(f"next: python {mini_earth.NEXT[dataset][0]} --data_dir '{root}")
    PARSERS[mini_earth.NEXT[dataset][0]]([*mini_earth.NEXT[dataset][1:], "--data_dir", "."])
    if dataset == "seco":
        assert last.endswith(" --crop_size 32 --batch_size 2 --num_negatives 2")  # no more than is


SCRIPTS = [name for name in PARSERS if name.startswith("main_") and name != "main_embed.py"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_checkpoint_of_another_script_is_refused_by_the_name_of_its_script(
    script: str, tmp_path: Path
) -> None:
    """The advice to resume with the flags of its run led in a circle."""
    arguments = vars(PARSERS[script](["--data_dir", "."]))
    (tmp_path / "arguments.json").write_text(json.dumps({"arguments": arguments}, default=str))
    (tmp_path / "last.ckpt").touch()
    for other in SCRIPTS:
        flags = ["--resume_from_checkpoint", str(tmp_path / "last.ckpt")]
        if other == script:
            assert PARSERS[other](flags).data_dir == Path()
        else:
            with pytest.raises(UserError, match=f"is of a run of {script}: resume it with that"):
                PARSERS[other](flags)


@pytest.mark.parametrize(
    ("count", "batch", "queue"),
    [(2, 2, 2), (12, 6, 6), (40, 20, 20), (200, 32, 100), (5000, 32, 256)],
)
def test_the_queue_of_a_small_set_is_shorter_than_an_epoch(
    count: int, batch: int, queue: int
) -> None:
    assert sizes_for(count) == ["--batch_size", batch, "--num_negatives", queue]


def test_data_beyond_the_default_queue_need_no_flags() -> None:
    default = main_pretrain.parse_args(["--data_dir", "."]).num_negatives
    assert sizes_for(default)
    assert not sizes_for(default + 1)


@pytest.mark.parametrize(("side", "flags"), [(64, ["--crop_size", 64]), (224, []), (264, [])])
def test_views_are_no_larger_than_the_patches(side: int, flags: list[object]) -> None:
    assert crop_for(side) == flags


def test_paths_are_quoted_for_the_shell(capsys: pytest.CaptureFixture[str]) -> None:
    print_next("a.py", "--data_dir", Path("my data"))
    assert capsys.readouterr().out == "next: python a.py --data_dir 'my data'\n"

"""Invalid or hostile input ends with one sentence, not with a traceback."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.seco.patches import parse_quantiles
from datasets.seco.pictures import Pictures
from models.backbones import Encoder, load_encoder
from tests.references.script import in_processes
from utils.cli import run
from utils.errors import UserError
from utils.input_spec import InputSpec


def pictures(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), 99, np.uint8)).save(path)
    return folder


def test_a_list_of_windows_is_read_and_one_in_another_encoding_is_named(tmp_path: Path) -> None:
    root = pictures(tmp_path / "root", "a.png", "b.png")
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbfa.png\r\na.png\r\n")
    assert Pictures(root, tmp_path / "list.txt").names == ["a.png"]
    (tmp_path / "list.txt").write_text("a.png\n", encoding="utf-16")
    with pytest.raises(UserError, match=r"list\.txt is not a text in UTF-8"):
        Pictures(root, tmp_path / "list.txt")


def test_a_link_to_a_folder_above_adds_no_pictures(tmp_path: Path) -> None:
    root = pictures(tmp_path / "root", "a.png")
    pictures(tmp_path / "elsewhere", "b.png")
    (root / "loop").symlink_to(root)
    (root / "other").symlink_to(tmp_path / "elsewhere")
    assert Pictures(root).names == ["a.png", "other/b.png"]


@pytest.mark.parametrize("limits", ["[NaN, NaN]", "[0, Infinity]", "[-9, 3]"])
def test_quantiles_that_no_byte_has_are_an_error(tmp_path: Path, limits: str) -> None:
    content = f'{{"quantiles": {{"B8": {limits}}}}}'
    with pytest.raises(UserError, match=r"quantiles\.json is damaged"):
        parse_quantiles(content.encode(), tmp_path / "quantiles.json")


@pytest.fixture(scope="module")
def checkpoint() -> dict[str, Any]:
    state = {
        f"encoder_q.{name}": value for name, value in Encoder("resnet18_slim").state_dict().items()
    }
    contract = {"base_encoder": "resnet18_slim", "input_spec": InputSpec.of_pictures().to_dict()}
    return {"state_dict": state, "hyper_parameters": contract}


SPEC = InputSpec.of_pictures().to_dict()
STEM = "encoder_q.0.weight"


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("hyper_parameters", {"base_encoder": 5}, "its encoder is 5"),
        ("hyper_parameters", {"base_encoder": ["resnet18"]}, "its encoder is"),
        ("hyper_parameters", {"input_spec": "abc"}, "damaged input_spec"),
        ("hyper_parameters", {"input_spec": SPEC | {"mean": [0.5]}}, "damaged input_spec"),
        ("hyper_parameters", {"input_spec": SPEC | {"mean": ["a", "b"]}}, "damaged input_spec"),
        ("hyper_parameters", {"input_spec": SPEC | {"mean": [math.nan] * 3}}, "a finite mean"),
        ("hyper_parameters", {"input_spec": SPEC | {"std": [0.0] * 3}}, "a std above 0"),
        ("hyper_parameters", {"input_spec": SPEC | {"bands": [1, 2, 3]}}, "has a short name"),
        ("hyper_parameters", {"input_spec": {"bands": ["R"]}}, "damaged input_spec"),
        ("state_dict", {STEM: torch.full((16, 3, 7, 7), math.nan)}, "not finite"),
        ("state_dict", {STEM: torch.zeros(16 * 3 * 7 * 7)}, "holds no encoder"),
        ("state_dict", {STEM: "text", 5: "a key that is not a name"}, "holds no encoder"),
    ],
)
def test_hostile_contents_of_a_checkpoint_are_refused(
    checkpoint: dict[str, Any], tmp_path: Path, part: str, change: dict[Any, Any], message: str
) -> None:
    torch.save(checkpoint | {part: checkpoint[part] | change}, tmp_path / "x.ckpt")
    with pytest.raises(UserError, match=message):
        load_encoder("pretrain", None, tmp_path / "x.ckpt")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PermissionError(13, "Permission denied", "logs"), "logs: Permission denied: change the"),
        (MemoryError(), "out of memory"),
        (UserError("a\x1b[2J\nb"), r"error: a\x1b[2J\nb"),  # of a stranger's file or server
        (torch.OutOfMemoryError(), "out of memory"),
    ],
)
@pytest.mark.usefixtures("_restored_signals")
def test_errors_of_the_machine_are_one_sentence(
    capsys: pytest.CaptureFixture[str], error: Exception, message: str
) -> None:
    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as caught:
        run(main)
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_a_terminated_script_cleans_up() -> None:
    script = """
import os, signal
from utils.cli import run
def main():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()
    finally:
        print("clean")
run(main)
"""
    done = in_processes("-c", script)
    assert done.returncode == 143
    assert done.stdout == "clean\n"

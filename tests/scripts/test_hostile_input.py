"""What a clumsy or hostile user hands in ends as one sentence, not as a traceback."""

import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.eurosat_dataset import RGB_DATA, EurosatDataset
from datasets.seco.geotiff import decode_band
from datasets.seco.patches import parse_quantiles
from datasets.seco.pictures import Pictures
from models.backbones import Encoder, load_encoder
from tests.references.waiting import HANG_S
from utils.checkpoint import WholeCheckpointIO, read_checkpoint
from utils.cli import run
from utils.errors import UserError
from utils.input_spec import InputSpec, input_transform


def pictures(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), 99, np.uint8)).save(path)
    return folder


def test_a_list_from_windows_is_read_without_its_mark(tmp_path: Path) -> None:
    root = pictures(tmp_path / "root", "a.png", "b.png")
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbfa.png\r\na.png\r\n")
    assert Pictures(root, tmp_path / "list.txt").names == ["a.png"]


def test_a_list_in_another_encoding_is_named(tmp_path: Path) -> None:
    root = pictures(tmp_path / "root", "a.png")
    (tmp_path / "list.txt").write_text("a.png\n", encoding="utf-16")
    with pytest.raises(UserError, match=r"list\.txt is not a text in UTF-8"):
        Pictures(root, tmp_path / "list.txt")


def test_a_link_to_a_folder_above_adds_no_pictures(tmp_path: Path) -> None:
    root = pictures(tmp_path / "root", "a.png")
    pictures(tmp_path / "elsewhere", "b.png")
    (root / "loop").symlink_to(root)
    (root / "other").symlink_to(tmp_path / "elsewhere")
    assert Pictures(root).names == ["a.png", "other/b.png"]


def test_a_zip_with_a_damaged_directory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "z.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", b"x")
    content = bytearray(path.read_bytes())
    content[content.find(b"PK\x01\x02")] = 0
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"z\.zip is not a whole zip: download or copy"):
        Pictures(path)


def test_an_encrypted_zip_of_eurosat_is_named(tmp_path: Path) -> None:
    root = pictures(tmp_path / "root", "A/A_1.png", "B/B_1.png")
    path = tmp_path / "z.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("A/A_1.png", "B/B_1.png"):
            archive.write(root / name, name)
    content = bytearray(path.read_bytes())
    content[6] |= 1
    content[content.find(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    transform = input_transform(InputSpec.of_pictures(), RGB_DATA, "auto")
    with pytest.raises(UserError, match=r"z\.zip holds encrypted files: pack it again"):
        EurosatDataset(path).read_images(transform, 1)


def test_an_empty_band_is_named() -> None:
    with pytest.raises(UserError, match=r"1/scene/B4\.tif is not a readable GeoTIFF"):
        decode_band(b"", "1/scene/B4.tif")


@pytest.mark.parametrize("limits", ["[NaN, NaN]", "[0, Infinity]", "[-9, 3]"])
def test_quantiles_that_no_byte_has_are_an_error(tmp_path: Path, limits: str) -> None:
    content = f'{{"quantiles": {{"B8": {limits}}}}}'
    with pytest.raises(UserError, match=r"quantiles\.json is damaged"):
        parse_quantiles(content.encode(), tmp_path / "quantiles.json")


@pytest.fixture(scope="module")
def checkpoint() -> dict[str, Any]:
    state = {f"encoder_q.{name}": value for name, value in Encoder("resnet18").state_dict().items()}
    contract = {"base_encoder": "resnet18", "input_spec": InputSpec.of_pictures().to_dict()}
    return {"state_dict": state, "hyper_parameters": contract}


SPEC = InputSpec.of_pictures().to_dict()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base_encoder": 5}, "its encoder is 5"),
        ({"base_encoder": ["resnet18"]}, "its encoder is"),
        ({"input_spec": "abc"}, "damaged input_spec"),
        ({"input_spec": SPEC | {"mean": [0.5]}}, "one low, high, mean and std"),
        ({"input_spec": SPEC | {"mean": ["a", "b", "c"]}}, "damaged input_spec"),
        ({"input_spec": SPEC | {"mean": [float("nan")] * 3}}, "numbers are finite"),
        ({"input_spec": SPEC | {"std": [0.0] * 3}}, "std is above 0"),
        ({"input_spec": SPEC | {"bands": [1, 2, 3]}}, "names of bands"),
        ({"input_spec": {"bands": ["R"]}}, "damaged input_spec"),
    ],
)
def test_hostile_hyper_parameters_are_refused(
    checkpoint: dict[str, Any], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    hyper_parameters = checkpoint["hyper_parameters"] | changes
    torch.save(checkpoint | {"hyper_parameters": hyper_parameters}, tmp_path / "x.ckpt")
    with pytest.raises(UserError, match=message):
        load_encoder("pretrain", "resnet18", tmp_path / "x.ckpt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda stem: stem * float("nan"), "not finite"),
        (lambda stem: stem.int(), "another shape or type"),
        (lambda stem: stem.flatten(), "holds no encoder"),
        (lambda stem: "text", "holds no encoder"),
    ],
)
def test_hostile_weights_are_refused(
    checkpoint: dict[str, Any], tmp_path: Path, change: Callable[[Any], Any], message: str
) -> None:
    stem = change(checkpoint["state_dict"]["encoder_q.0.weight"])
    state = checkpoint["state_dict"] | {"encoder_q.0.weight": stem, 5: "a key that is no name"}
    torch.save(checkpoint | {"state_dict": state}, tmp_path / "x.ckpt")
    with pytest.raises(UserError, match=message):
        load_encoder("pretrain", "resnet18", tmp_path / "x.ckpt")


@pytest.mark.parametrize("part", ["state_dict", "hyper_parameters"])
def test_a_checkpoint_without_its_parts_is_refused(tmp_path: Path, part: str) -> None:
    whole: dict[str, Any] = {"state_dict": {}, "hyper_parameters": {}}
    torch.save(whole | {part: [1]}, tmp_path / "x.ckpt")
    with pytest.raises(UserError, match=f"has no {part}"):
        read_checkpoint(tmp_path / "x.ckpt")


@pytest.mark.parametrize("content", [b"\x80", b"\x80\x02}", b"\x80\x02cos\nsystem\n."])
def test_bytes_that_are_no_checkpoint_are_refused_without_advice_to_run_them(
    tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "x.ckpt").write_bytes(content)
    with pytest.raises(UserError, match=r"x\.ckpt is not a readable checkpoint") as caught:
        read_checkpoint(tmp_path / "x.ckpt")
    assert "weights_only" not in str(caught.value)


def test_a_checkpoint_that_would_not_be_read_is_an_error() -> None:
    with pytest.raises(UserError, match="--backbone_type pretrain"):
        load_encoder("random", "resnet18", Path("last.ckpt"))


def test_a_full_disk_keeps_the_previous_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.ckpt"
    path.write_text("previous")

    def save(checkpoint: object, file: object) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc] unexpected pos 9 vs 8\nmore")

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(UserError, match=r"cannot write .*last\.ckpt, is the disk full\?"):
        WholeCheckpointIO().save_checkpoint({}, path)
    assert path.read_text() == "previous"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PermissionError(13, "Permission denied", "logs"), "logs: Permission denied: change the"),
        (MemoryError(), "out of memory"),
        (torch.OutOfMemoryError(), "out of memory"),
    ],
)
def test_errors_of_the_machine_are_one_sentence(
    capsys: pytest.CaptureFixture[str], error: Exception, message: str
) -> None:
    def main() -> None:
        raise error

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as caught:
        run(main)
    signal.signal(signal.SIGTERM, before)
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
    command = [sys.executable, "-c", script]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=HANG_S)
    assert done.returncode == 143
    assert done.stdout == "clean\n"

"""An exported encoder gives the same features elsewhere, and carries the contract of its input."""

import builtins
import errno
import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from safetensors import safe_open
from torch import Tensor, nn

from models import export
from models.backbones import Encoder, load_encoder
from tests.references.legacy_checkpoint import write_legacy_checkpoint
from tests.references.script import exit_code
from utils.errors import UserError
from utils.input_spec import SECO_SPEC, InputSpec

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
BANDS = ("B2", "B3", "B4", "B8", "B11")
Saved = tuple[Path, Encoder]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """A checkpoint of 2021 and its encoder."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("saved") / "x.ckpt"
    return path, write_legacy_checkpoint(path)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """A checkpoint of our own, with five bands."""
    encoder = Encoder("resnet18", in_channels=len(BANDS)).eval()
    state = {f"encoder_q.{key}": tensor for key, tensor in encoder.state_dict().items()}
    contract = {"base_encoder": "resnet18", "input_spec": InputSpec.of_pictures(BANDS).to_dict()}
    path = tmp_path_factory.mktemp("many") / "x.ckpt"
    torch.save({"state_dict": state, "hyper_parameters": contract}, path)
    return path, encoder


def exported(source: Path, form: str, target: Path) -> Path:
    return export.main(["--ckpt_path", str(source), "--format", form, "--save_path", str(target)])


def close(one: Tensor, other: Tensor) -> bool:
    """Compare to 1e-5 of the largest feature: random weights let them grow to 50."""
    return bool((one - other).abs().max() <= 1e-5 * other.abs().max().clamp(min=1))


@torch.no_grad()
@pytest.mark.difference("encoder-export")
def test_torchvision_loads_the_state_dict(tmp_path: Path) -> None:
    encoder = write_legacy_checkpoint(tmp_path / "x.ckpt", "resnet50")
    path = exported(tmp_path / "x.ckpt", "torchvision", tmp_path / "x.pth")
    resnet: Any = torchvision.models.resnet50()
    resnet.fc = nn.Identity()
    state = torch.load(path, weights_only=True)
    resnet.load_state_dict(state)
    assert close(resnet.eval()(IMAGES), encoder(IMAGES))
    contract = state._metadata["contract"]
    assert contract == {"architecture": "resnet50", "input_spec": SECO_SPEC.to_dict()}


@torch.no_grad()
def test_timm_opens_the_folder(tmp_path: Path, saved: Saved) -> None:
    path = exported(saved[0], "timm", tmp_path / "x")
    model: Any = timm.create_model(f"local-dir:{path}", pretrained=True).eval()
    assert close(model(IMAGES), saved[1](IMAGES))
    assert model.pretrained_cfg["mean"] == list(SECO_SPEC.mean)
    assert model.pretrained_cfg["std"] == list(SECO_SPEC.std)
    assert model.num_features == saved[1].num_features
    classifier = timm.create_model(f"local-dir:{path}", pretrained=True, num_classes=10)
    assert classifier(IMAGES).shape == (2, 10)
    config = json.loads((path / "config.json").read_text())
    assert config["input_spec"] == SECO_SPEC.to_dict()


@torch.no_grad()
def test_onnxruntime_gives_the_same_features(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    encoder = Encoder("resnet18_slim").eval()
    torch.save(encoder.state_dict(), tmp_path / "x.ckpt")
    path = exported(tmp_path / "x.ckpt", "onnx", tmp_path / "x.onnx")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for images in (IMAGES, torch.randn(5, 3, 64, 48)):  # any batch, any size
        (features,) = session.run(["features"], {"input": images.numpy()})
        assert close(torch.from_numpy(features), encoder(images))
    header = session.get_modelmeta().custom_metadata_map
    assert header["architecture"] == "resnet18_slim"
    assert InputSpec.from_dict(json.loads(header["input_spec"])) == SECO_SPEC


def test_the_header_of_safetensors_has_the_contract(tmp_path: Path, saved: Saved) -> None:
    with safe_open(exported(saved[0], "safetensors", tmp_path / "x"), framework="pt") as file:
        header = file.metadata()
        assert "fc.weight" not in file.keys()  # noqa: SIM118
    assert header["architecture"] == "resnet18"
    assert InputSpec.from_dict(json.loads(header["input_spec"])) == SECO_SPEC


@torch.no_grad()
@pytest.mark.parametrize(
    "form", ["torchvision", "timm", "safetensors", pytest.param("onnx", marks=pytest.mark.slow)]
)
def test_other_bands_travel_too_and_our_own_loader_reads_them_back(
    tmp_path: Path, many: Saved, form: str
) -> None:
    images = torch.randn(2, 5, 32, 32)
    path = exported(many[0], form, tmp_path / "deep" / "x")
    assert [file.name for file in path.parent.iterdir()] == ["x"]
    if form == "onnx":
        onnxruntime = pytest.importorskip("onnxruntime")
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        features = torch.from_numpy(session.run(None, {"input": images.numpy()})[0])
    else:
        encoder, spec = load_encoder("pretrain", "resnet18", path)
        assert spec == InputSpec.of_pictures(BANDS)
        features = encoder(images)
    assert close(features, many[1](images))
    if form == "timm":
        model = timm.create_model(f"local-dir:{path}", pretrained=True).eval()
        assert close(model(images), many[1](images))


@pytest.mark.parametrize("form", ["torchvision", "timm", "safetensors"])
def test_others_may_read_what_the_umask_lets_them(tmp_path: Path, saved: Saved, form: str) -> None:
    """The writer of safetensors made files of mode 600."""
    path = exported(saved[0], form, tmp_path / "x")
    (tmp_path / "usual").touch()
    for file in path.iterdir() if path.is_dir() else [path]:
        assert file.stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.parametrize("form", ["torchvision", "safetensors", "timm"])
def test_a_bit_that_flips_in_an_export_is_found(tmp_path: Path, saved: Saved, form: str) -> None:
    path = exported(saved[0], form, tmp_path / "x")
    file = path / "model.safetensors" if path.is_dir() else path
    whole = file.read_bytes()
    for place in random.Random(0).sample(range(len(whole)), 5):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        file.write_bytes(damaged)
        with pytest.raises(UserError, match=r"is damaged|sha256 is not the one"):
            load_encoder("pretrain", None, path)


def test_an_existing_target_is_kept(tmp_path: Path, saved: Saved) -> None:
    (tmp_path / "x").write_text("mine")
    with pytest.raises(UserError, match="x exists: choose another --save_path, or delete it"):
        exported(saved[0], "safetensors", tmp_path / "x")
    assert (tmp_path / "x").read_text() == "mine"


@pytest.mark.parametrize("form", ["torchvision", "timm"])
def test_a_full_disk_leaves_nothing(
    tmp_path: Path, saved: Saved, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    def torch_full(*arguments: object) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc] unexpected pos 9 vs 8\nmore")

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(torch, "save", torch_full)
    monkeypatch.setattr(Path, "write_bytes", full)
    reason = ", perhaps because the disk is full" if form == "torchvision" else ": No space left"
    with pytest.raises(UserError, match=f"cannot write .*x{reason}"):
        exported(saved[0], form, tmp_path / "x")
    assert not any(tmp_path.iterdir())


def test_onnx_without_its_packages_is_one_sentence(
    tmp_path: Path, saved: Saved, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = builtins.__import__

    def without(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name == "onnxscript":
            raise ImportError(name)
        return original(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match="--format onnx needs more: pip install onnx onnxscript"):
        exported(saved[0], "onnx", tmp_path / "x")
    assert not any(tmp_path.iterdir())


def test_the_command_refuses_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "y"
    flags = ["--format", "safetensors", "--ckpt_path", str(path)]
    flags += ["--save_path", str(tmp_path / "x")]
    assert exit_code(monkeypatch, "models/export.py", *flags) == 2
    said = f"error: --ckpt_path {path} does not exist: correct the path\n"
    assert capsys.readouterr().err == said


def test_libraries_that_lack_the_slim_encoder_get_no_file_of_it(tmp_path: Path) -> None:
    torch.save(Encoder("resnet18_slim").state_dict(), tmp_path / "slim.pth")
    for form in ("timm", "torchvision"):
        with pytest.raises(UserError, match=f"{form} has no resnet18_slim: use --format safet"):
            exported(tmp_path / "slim.pth", form, tmp_path / "out")
    assert not (tmp_path / "out").exists()

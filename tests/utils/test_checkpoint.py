"""Checkpoints are whole, and a run resumes only from its own."""

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from models.backbones import Encoder, load_encoder
from models.digests import PUBLISHED
from utils.checkpoint import WholeCheckpointIO, check_resumable, read_checkpoint
from utils.errors import UserError
from utils.input_spec import SECO_SPEC, InputSpec

EMPTY: dict[str, Any] = {"state_dict": {}, "hyper_parameters": {}}


def test_a_checkpoint_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "last.ckpt"
    WholeCheckpointIO().save_checkpoint(EMPTY | {"epoch": 3, "tensor": torch.arange(4)}, path)
    checkpoint = read_checkpoint(path)
    assert checkpoint["epoch"] == 3
    assert torch.equal(checkpoint["tensor"], torch.arange(4))
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]


TORCHS = RuntimeError("[enforce fail at inline_container.cc] unexpected pos 9 vs 8\nmore")


@pytest.mark.parametrize(
    ("error", "context", "expected"),
    [
        (OSError(28, "No space left on device"), None, "No space left on device: free some space"),
        (TORCHS, None, r"cannot write .*last\.ckpt, perhaps because the disk is full"),
        (TORCHS, KeyboardInterrupt(), None),  # torch finishes its zip even then
    ],
)
def test_a_failed_save_leaves_the_previous_file(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    context: BaseException | None,
    expected: str | None,
) -> None:
    path = tmp_path / "last.ckpt"
    WholeCheckpointIO().save_checkpoint(EMPTY | {"epoch": 1}, path)

    def fail(*_: object) -> None:
        error.__context__ = context
        raise error

    monkeypatch.setattr(*((torch, "save") if error is TORCHS else (os, "fsync")), fail)
    with pytest.raises(UserError if expected else KeyboardInterrupt, match=expected):
        WholeCheckpointIO().save_checkpoint({"epoch": 2}, path)
    assert read_checkpoint(path)["epoch"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("cut", [0, 10, 1000])
def test_a_cut_file_is_named_with_a_remedy(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "cut.ckpt"
    torch.save({"state_dict": {"weight": torch.zeros(1000)}}, path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(UserError, match=r"cut\.ckpt .* download or copy it again") as caught:
        read_checkpoint(path)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds a list, not a run: use the last"),
        (EMPTY | {"state_dict": [1]}, "has no state_dict of a run: use the last"),
        (EMPTY | {"hyper_parameters": [1]}, "has no hyper_parameters"),
    ],
)
def test_a_file_without_a_run_is_refused(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(UserError, match=r"no checkpoint .*x\.ckpt"):
        read_checkpoint(tmp_path / "x.ckpt")
    torch.save(content, tmp_path / "x.ckpt")
    with pytest.raises(UserError, match=message):
        read_checkpoint(tmp_path / "x.ckpt")


def pretrained(path: Path, **changes: Any) -> Encoder:
    encoder = Encoder("resnet18_slim")
    state = {f"encoder_q.{name}": tensor for name, tensor in encoder.state_dict().items()}
    spec = InputSpec.of_pictures().to_dict()
    hyper_parameters = {"base_encoder": "resnet18_slim", "input_spec": spec}
    torch.save({"state_dict": state, "hyper_parameters": hyper_parameters} | changes, path)
    return encoder


def test_the_encoder_of_a_checkpoint_comes_with_its_input_contract(tmp_path: Path) -> None:
    saved = pretrained(tmp_path / "last.ckpt")
    encoder, spec = load_encoder("pretrain", None, tmp_path / "last.ckpt")
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(encoder.eval()(images), saved.eval()(images))
    assert spec == InputSpec.of_pictures()
    hyper_parameters = {"base_encoder": "resnet18_slim", "input_spec": None}  # also of pictures
    pretrained(tmp_path / "last.ckpt", hyper_parameters=hyper_parameters)
    assert load_encoder("pretrain", None, tmp_path / "last.ckpt")[1] == InputSpec.of_pictures()


def test_a_checkpoint_without_an_encoder_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    pretrained(path, state_dict={})
    with pytest.raises(UserError, match=r"holds no encoder: conv1\.weight"):
        load_encoder("pretrain", None, path)
    pretrained(path, hyper_parameters={"base_encoder": "resnet50"})
    with pytest.raises(UserError, match=r"does not fit a resnet50: of its tensors \d+ missing"):
        load_encoder("pretrain", None, path)
    with pytest.raises(UserError, match="--ckpt_path"):
        load_encoder("pretrain", "resnet18", None)
    with pytest.raises(UserError, match="--backbone_type pretrain"):
        load_encoder("random", "resnet18", path)  # which would not be read
    with pytest.raises(UserError, match=r"resnet19.*resnet18.*resnet50"):
        load_encoder("random", "resnet19")


def test_imagenet_weights_without_a_network_are_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def offline(*arguments: Any, **keywords: Any) -> None:
        raise OSError("the network is down")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(UserError, match="ImageNet weights of resnet18"):
        load_encoder("imagenet", "resnet18")


def resumable(path: Path, **changes: Any) -> dict[str, Any]:
    """Write a checkpoint of a run of 10 epochs and return the hyper-parameters that continue it."""
    hparams = {
        **{"base_encoder": "resnet18", "emb_dim": 4, "num_negatives": 16, "emb_spaces": 1},
        **{"in_channels": 3, "input_spec": InputSpec.of_pictures().to_dict()},
        **{"learning_rate": 0.03, "momentum": 0.9, "weight_decay": 1e-4},
    }
    loops = {"fit_loop": {"epoch_progress": {"current": {"processed": 10}}}}
    state = {"epoch": 9, "global_step": 9, "pytorch-lightning_version": "2.6", "loops": loops}
    state |= {"callbacks": {}, "optimizer_states": [], "lr_schedulers": []}
    torch.save({"state_dict": {}, "hyper_parameters": hparams | changes} | state, path)
    return hparams


@pytest.mark.parametrize(
    "part", ["epoch", "pytorch-lightning_version", "loops", "optimizer_states", "lr_schedulers"]
)
@pytest.mark.parametrize("value", [None, 3.5, 10**30])
def test_weights_without_the_state_of_a_run_are_not_resumed(
    tmp_path: Path, part: str, value: object
) -> None:
    hparams = resumable(tmp_path / "x.ckpt")
    content = torch.load(tmp_path / "x.ckpt")
    torch.save(content | {part: value}, tmp_path / "x.ckpt")
    with pytest.raises(UserError, match=f"has no {part} of a run: use the last"):
        check_resumable(tmp_path / "x.ckpt", hparams, 256, max_epochs=11)


def test_a_bit_that_flipped_in_a_tensor_is_found(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    torch.save({"state_dict": {"weight": torch.full((1000,), 3.0)}, "hyper_parameters": {}}, path)
    flipped(path, path.read_bytes().index(torch.full((9,), 3.0).numpy().tobytes()) + 100)
    with pytest.raises(UserError, match=r"x/data/0 in it is damaged: download or copy"):
        read_checkpoint(path)


def test_a_run_resumes_from_a_checkpoint_of_before_the_contract_had_a_unit(tmp_path: Path) -> None:
    old = InputSpec.of_pictures().to_dict()
    del old["unit"]
    hparams = resumable(tmp_path / "x.ckpt", input_spec=old)
    check_resumable(tmp_path / "x.ckpt", hparams, 256, max_epochs=11)
    with pytest.raises(UserError, match="has its 10 epochs already"):
        check_resumable(tmp_path / "x.ckpt", hparams, 256, max_epochs=10)


@pytest.mark.parametrize(
    "change",
    [
        {"base_encoder": "resnet50"},
        {"learning_rate": 0.1},
        {"input_spec": SECO_SPEC.to_dict()},
        {"input_spec": None},
        {"input_spec": [1]},
        {"emb_dim": [[[[[[[[0]]]]]]]]},
        {"learning_rate": torch.zeros(2)},
    ],
)
def test_a_run_does_not_resume_with_other_hyper_parameters(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    hparams = resumable(tmp_path / "x.ckpt", **change)
    with pytest.raises(UserError, match=rf"trained with {next(iter(change))} .*resume with the"):
        check_resumable(tmp_path / "x.ckpt", hparams, 256, max_epochs=11)


def flipped(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_a_written_checkpoint_carries_the_sha256_of_its_bytes(tmp_path: Path) -> None:
    """Also a copy of it, and whatever bit flips; without its last bytes it is refused."""
    path = tmp_path / "x.ckpt"
    WholeCheckpointIO().save_checkpoint(EMPTY | {"tensor": torch.arange(4)}, path)
    whole = path.read_bytes()
    assert whole[-71:] == f"sha256:{hashlib.sha256(whole[:-71]).hexdigest()}".encode()
    assert torch.equal(torch.load(path)["tensor"], torch.arange(4))  # as anyone reads it
    for place in range(0, len(whole), 7):
        path.write_bytes(whole)
        flipped(path, place)
        with pytest.raises(UserError, match=r"x\.ckpt is not a"):
            read_checkpoint(path)
    for cut in (1, 70, 71, 72, 93):
        path.write_bytes(whole[:-cut])
        with pytest.raises(UserError, match="download or copy it again"):
            read_checkpoint(path)


def test_a_file_under_a_published_name_is_the_published_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("seco_resnet18_1m.ckpt", "resnet18_sentinel2_rgb_seco-cefca942.pth"):
        pretrained(tmp_path / name)
        with pytest.raises(UserError, match=r"the published file of this name has .*download it"):
            load_encoder("pretrain", None, tmp_path / name)
    digest = hashlib.md5((tmp_path / name).read_bytes()).hexdigest()
    monkeypatch.setitem(PUBLISHED, name, ("md5", digest))
    load_encoder("pretrain", None, tmp_path / name)

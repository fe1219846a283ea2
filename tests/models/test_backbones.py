"""Encoders are built for the requested bands, or refuse them."""

from pathlib import Path

import pytest
import torch
import torchvision

from models.backbones import Encoder, load_encoder
from utils.errors import UserError
from utils.input_spec import SECO_SPEC, InputSpec


@pytest.mark.parametrize("kind", [str, Path])
def test_a_loaded_encoder_is_in_eval_mode_for_any_type_of_path(tmp_path: Path, kind: type) -> None:
    path = tmp_path / "encoder.pth"
    torch.save(Encoder("resnet18").state_dict(), path)
    for encoder, _ in (load_encoder("pretrain", ckpt_path=kind(path)), load_encoder("random")):
        assert not any(module.training for module in encoder.modules())


@pytest.mark.difference("encoder-bands")
def test_a_random_encoder_takes_any_bands() -> None:
    encoder, spec = load_encoder("random", None, None, ["B2", "B3", "B4", "B8"])
    assert encoder(torch.zeros(2, 4, 32, 32)).shape == (2, 512)
    assert spec == InputSpec.of_pictures(["B2", "B3", "B4", "B8"])
    with pytest.raises(UserError, match="needs 3 or more bands, not 1"):
        load_encoder("random", None, None, ["B2"])
    with pytest.raises(UserError, match="distinct names, not: B2 B2 B3"):
        load_encoder("random", None, None, ["B2", "B2", "B3"])


def test_a_random_encoder_of_seco_bands_gets_the_inputs_of_its_pre_training() -> None:
    """Else the two encoders of a comparison would see different pictures of one place."""
    assert load_encoder("random", bands=["B4", "B3", "B2"])[1] == SECO_SPEC
    assert load_encoder("random", bands=["R", "G", "B"])[1] == InputSpec.of_pictures()


def test_the_slim_encoder_is_a_resnet18_with_a_quarter_of_the_channels() -> None:
    """So all that reads, writes and probes encoders takes it; ImageNet weights do not exist."""
    slim, _ = load_encoder("random", "resnet18_slim")
    full = Encoder("resnet18").state_dict()
    assert slim(torch.zeros(2, 3, 64, 64)).shape == (2, 128)
    for name, tensor in slim.state_dict().items():
        dims = full[name].shape
        quarter = [size if size in (1, 3, 7) else size // 4 for size in dims]
        assert list(tensor.shape) == quarter, name
    with pytest.raises(UserError, match="resnet18_slim has no IMAGENET1K_V1 weights: use resnet18"):
        load_encoder("imagenet", "resnet18_slim")


def test_imagenet_has_red_green_and_blue_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="trained on red, green and blue, not on B8 B4 B3"):
        load_encoder("imagenet", None, None, ["B8", "B4", "B3"])
    monkeypatch.setattr(
        "torchvision.models._api.load_state_dict_from_url",
        lambda *_, **__: torchvision.models.resnet18().state_dict(),
    )
    assert load_encoder("imagenet", None, None, ["B4", "B3", "B2"])[1].bands == ("B4", "B3", "B2")

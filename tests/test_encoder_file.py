"""Every file of the SeCo family gives the encoder that was saved and the input that it expects."""

import hashlib
import json
import math
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor

from datasets.bands import RGB_BANDS, seco_input_spec
from models.backbones import Encoder, load_encoder
from tests.legacy_checkpoint import write_legacy_checkpoint
from utils import encoder_file
from utils.checkpoint import check_resumable, read_checkpoint
from utils.encoder_file import SEQUENTIAL, read_encoder_file
from utils.errors import UserError
from utils.input_transform import DataSpec, input_transform
from utils.normalization import SECO_SPEC, InputSpec
from utils.resnets import RESNETS, encoder_tensors

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
State = dict[str, Tensor]


def torchvision_state(encoder: Encoder) -> State:
    """Return its tensors as torchvision names them, with a classifier."""
    state = {"fc.weight": torch.zeros(1000, encoder.num_features), "fc.bias": torch.zeros(1000)}
    for key, tensor in encoder.state_dict().items():
        position, _, rest = key.partition(".")
        state[f"{SEQUENTIAL[position]}.{rest}"] = tensor
    return state


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    torch.manual_seed(0)
    return Encoder("resnet18").eval()


@pytest.fixture
def plain(encoder: Encoder) -> State:
    return torchvision_state(encoder)


@pytest.fixture(scope="module")
def legacy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("legacy") / "seco_resnet18_1m.ckpt"
    write_legacy_checkpoint(path)
    return path


def same_features(one: Encoder, other: Encoder) -> bool:
    return torch.equal(one.eval()(IMAGES), other.eval()(IMAGES))


@pytest.mark.parametrize("as_zip", [True, False])
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_a_checkpoint_of_2021_is_read_without_its_lightning(
    tmp_path: Path, name: str, as_zip: bool
) -> None:
    path = tmp_path / "x.ckpt"
    saved = write_legacy_checkpoint(path, name, as_zip=as_zip)
    assert zipfile.is_zipfile(path) == as_zip
    encoder, spec = load_encoder("pretrain", None, path)
    assert same_features(encoder, saved)
    assert spec == SECO_SPEC


def test_seco_has_one_contract_for_data_and_published_encoders() -> None:
    assert seco_input_spec(RGB_BANDS) == SECO_SPEC
    assert SECO_SPEC.bands == ("B4", "B3", "B2")
    assert (SECO_SPEC.low, SECO_SPEC.high) == ((0, 2, 3), (129, 103, 88))


@pytest.mark.parametrize("row", [(0, "B4", 0, 129, 0.485, 0.229), (2, "B2", 3, 88, 0.406, 0.225)])
def test_the_contract_of_seco_is_the_formula_of_its_model_card(
    row: tuple[int, str, float, float, float, float],
) -> None:
    channel, band, low, high, mean, std = row
    data = DataSpec("Sentinel-2", ("B2", "B3", "B4"), (0.0,) * 3, (1.0,) * 3)
    transform = input_transform(SECO_SPEC, data, "auto")
    assert transform.bands[channel] == band
    for dn in (0, 100, 117, 118, 1000, 3450, 5059, 9999, 10_000, 65_535):
        stored = math.floor(255 * min(dn / 10_000, 1))
        picture = math.floor(min(max(255 * (stored - low) / (high - low), 0), 255))
        pixels = torch.from_numpy(transform.to_picture(np.full((3, 1, 1), dn, np.uint16)))
        x = transform.normalize(pixels[None])[0, channel].item()
        assert x == pytest.approx((picture / 255 - mean) / std, abs=1e-6)


def test_objects_of_lightning_are_nothing_but_dicts_and_stubs(legacy: Path) -> None:
    checkpoint = read_checkpoint(legacy)
    assert type(checkpoint["hyper_parameters"]) is dict
    assert checkpoint["lr_schedulers"][0]["milestones"] == {120: 1, 160: 1}
    (callback,) = checkpoint["callbacks"]
    assert (callback.__module__, callback.__name__) == ("utils.torch_files", "Inert")
    assert callback is checkpoint["hyper_parameters"]["tpu_cores"]


def test_a_run_of_2021_cannot_be_continued(legacy: Path) -> None:
    with pytest.raises(UserError, match=r"was not written by this main_pretrain\.py"):
        check_resumable(legacy, {}, 256, 1000)


def test_a_bare_state_dict_of_caco_has_the_contract_of_seco(
    tmp_path: Path, encoder: Encoder
) -> None:
    torch.save(encoder.state_dict(), tmp_path / "resnet18_caco_geo_1m_200.pth")
    loaded, spec = load_encoder("pretrain", None, tmp_path / "resnet18_caco_geo_1m_200.pth")
    assert same_features(loaded, encoder)
    assert spec == SECO_SPEC


def test_a_converted_file_of_torchgeo_is_known_by_its_hash(
    tmp_path: Path, encoder: Encoder, plain: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.pth"
    torch.save({key: value for key, value in plain.items() if not key.startswith("fc.")}, path)
    assert load_encoder("pretrain", None, path)[1] == InputSpec.of_pictures()
    start = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    monkeypatch.setattr(encoder_file, "_TORCHGEO_SECO", (start,))
    loaded, spec = load_encoder("pretrain", None, path)
    assert same_features(loaded, encoder)
    assert spec == SECO_SPEC


@pytest.mark.parametrize("wrap", [False, True])
def test_a_plain_state_dict_is_one_of_pictures_and_loses_its_classifier(
    tmp_path: Path, encoder: Encoder, plain: State, wrap: bool
) -> None:
    torch.save({"state_dict": plain, "epoch": 3} if wrap else plain, tmp_path / "x.pth")
    loaded, spec = load_encoder("pretrain", None, tmp_path / "x.pth")
    assert same_features(loaded, encoder)
    assert spec == InputSpec.of_pictures()


def test_a_state_dict_from_before_batch_norms_counted_is_read(
    tmp_path: Path, encoder: Encoder, plain: State
) -> None:
    plain = {key: value for key, value in plain.items() if "num_batches" not in key}
    torch.save(plain, tmp_path / "resnet18-5c106cde.pth")
    loaded, _ = load_encoder("pretrain", None, tmp_path / "resnet18-5c106cde.pth")
    assert same_features(loaded, encoder)


def test_safetensors_without_a_contract_are_ones_of_pictures(
    tmp_path: Path, encoder: Encoder, plain: State
) -> None:
    save_file(plain, tmp_path / "x.bin")  # known by its content
    loaded, spec = load_encoder("pretrain", None, tmp_path / "x.bin")
    assert same_features(loaded, encoder)
    assert spec == InputSpec.of_pictures()


@pytest.mark.parametrize("name", ["resnet34", "resnet152", "resnext50_32x4d", "wide_resnet50_2"])
def test_the_architecture_is_told_by_the_tensors(tmp_path: Path, name: str) -> None:
    shapes = encoder_tensors(name, 3)
    filled = {
        key: torch.zeros((), dtype=dtype).expand(shape) for key, (shape, dtype) in shapes.items()
    }
    torch.save(filled, tmp_path / "x.pth")
    assert read_encoder_file(tmp_path / "x.pth").architecture == name


def test_every_resnet_of_torchvision_has_other_tensors() -> None:
    tables = [tuple(sorted((k, s) for k, (s, _) in encoder_tensors(n, 3).items())) for n in RESNETS]
    assert len(set(tables)) == len(RESNETS) >= 9
    state = torchvision.models.resnet18().state_dict()
    expected = {key: (value.shape, value.dtype) for key, value in state.items() if key[:3] != "fc."}
    assert encoder_tensors("resnet18", 3) == expected


def changed(path: Path, plain: State, change: Callable[[dict[Any, Any]], Any]) -> Path:
    change(plain)
    torch.save(OrderedDict(plain), path)
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: [s.pop(key) for key in ("bn1.bias", "bn1.weight")],
            r"does not fit a resnet18: of its tensors 2 missing \(bn1\.bias, bn1\.weight\)$",
        ),
        (lambda s: s.update(head=s["fc.bias"]), r"tensors 1 too many \(head\)$"),
        (
            lambda s: s.update({f"layer9.{i}": s["fc.bias"] for i in range(5)}),
            r"5 too many \(layer9\.0, layer9\.1, layer9\.2 and 2 more\)",
        ),
        (
            lambda s: s.update({"bn1.bias": torch.zeros(3)}),
            r"1 of another shape or type \(bn1\.bias\)",
        ),
        (lambda s: s.update({"bn1.bias": s["bn1.bias"].double()}), "another shape or type"),
        (
            lambda s: s.update({"bn1.bias": torch.full((64,), torch.inf)}),
            r"not finite, in 1 tensors such as bn1\.bias",
        ),
        (
            lambda s: s.update({"\x1b[2J" + "x" * 10**5: s["fc.bias"]}),
            r"1 too many \('\\x1b\[2Jx{70,80}\.\.\.\)",
        ),
        (lambda s: s.update({7: 7}), "7 is no named tensor"),
        (lambda s: s.update({"bn1.bias": [0.0]}), r"bn1\.bias' is no named tensor"),
        (lambda s: s.update({"0.weight": s["conv1.weight"]}), "names a tensor twice"),
        (
            lambda s: s.update({"conv1.weight": torch.zeros(1).expand(64, 10**9, 7, 7)}),
            r"conv1\.weight is no filter of 3 or more bands",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_listed(
    tmp_path: Path, plain: State, change: Callable[[dict[Any, Any]], Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        load_encoder("pretrain", None, changed(tmp_path / "x.pth", plain, change))


@pytest.mark.parametrize("name", ["legacy", "plain"])
def test_another_encoder_than_the_files_is_an_error(
    tmp_path: Path, legacy: Path, plain: State, name: str
) -> None:
    torch.save(plain, tmp_path / "x.pth")
    path = legacy if name == "legacy" else tmp_path / "x.pth"
    with pytest.raises(UserError, match="holds a resnet18, but --base_encoder asks for resnet50"):
        load_encoder("pretrain", "resnet50", path)
    load_encoder("pretrain", "resnet18", path)


def test_bands_name_the_channels_of_a_file_that_does_not(tmp_path: Path, plain: State) -> None:
    many = ("B2", "B3", "B4", "B8")
    path = changed(
        tmp_path / "x.pth", plain, lambda s: s.update({"conv1.weight": torch.zeros(64, 4, 7, 7)})
    )
    encoder, spec = load_encoder("pretrain", None, path, many)
    assert spec == InputSpec.of_pictures(many)
    assert encoder(torch.zeros(2, 4, 32, 32)).shape == (2, 512)
    for bands in (None, many[:3]):
        with pytest.raises(UserError, match="takes 4 bands and does not name them: give 4 names"):
            load_encoder("pretrain", None, path, bands)


def test_bands_that_are_not_the_encoders_are_an_error(legacy: Path) -> None:
    with pytest.raises(UserError, match=r"trained on B4 B3 B2, not on B2 B3 B4: leave --bands out"):
        load_encoder("pretrain", None, legacy, ["B2", "B3", "B4"])
    for bands in (["B4", "B3", "B2"], ["R", "G", "B"]):  # the same, as pictures name them
        assert load_encoder("pretrain", None, legacy, bands)[1] == SECO_SPEC


def test_a_contract_of_other_bands_than_the_first_filter_is_refused(
    tmp_path: Path, plain: State
) -> None:
    spec = json.dumps(InputSpec.of_pictures(["B2", "B3", "B4", "B8"]).to_dict())
    save_file(plain, tmp_path / "x.safetensors", {"input_spec": spec})
    with pytest.raises(UserError, match="first filter takes 3 bands, its contract names 4"):
        load_encoder("pretrain", None, tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"input_spec": "{"}, "not a readable safetensors file"),
        ({"input_spec": "[" * 100_000}, "not a readable safetensors file"),
        ({"input_spec": "[1]"}, "damaged input_spec"),
        ({"architecture": "vit_b_16"}, "its encoder is 'vit_b_16', not one of resnet"),
        ({"architecture": "resnet34"}, "does not fit a resnet34"),
    ],
)
def test_a_hostile_header_is_refused(
    tmp_path: Path, plain: State, header: dict[str, str], message: str
) -> None:
    save_file(plain, tmp_path / "x.safetensors", header)
    with pytest.raises(UserError, match=message):
        load_encoder("pretrain", None, tmp_path / "x.safetensors")


def test_cut_safetensors_and_an_empty_folder_are_named(tmp_path: Path, plain: State) -> None:
    save_file(plain, tmp_path / "x.safetensors")
    content = (tmp_path / "x.safetensors").read_bytes()
    (tmp_path / "x.safetensors").write_bytes(content[:100_000])
    with pytest.raises(UserError, match=r"x\.safetensors is not a readable safetensors file"):
        load_encoder("pretrain", None, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=r"is a folder without model\.safetensors"):
        load_encoder("pretrain", None, tmp_path)

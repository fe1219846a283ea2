"""Every file of the SeCo family gives the encoder that was saved and the input that it expects."""

import hashlib
import json
import math
import pickle
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
from models import encoder_file
from models.backbones import Encoder, load_encoder
from models.encoder_file import SEQUENTIAL, nested_dicts, read_encoder_file
from models.resnets import RESNETS, encoder_tensors
from tests.references.legacy_checkpoint import write_legacy_checkpoint
from utils.checkpoint import check_resumable, read_checkpoint
from utils.errors import UserError
from utils.input_spec import SECO_SPEC, DataSpec, InputSpec, input_transform

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
    return Encoder("resnet18_slim").eval()


@pytest.fixture
def plain(encoder: Encoder) -> State:
    return torchvision_state(encoder)


@pytest.fixture(scope="module")
def legacy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("legacy") / "published.ckpt"
    write_legacy_checkpoint(path)
    return path


def same_features(one: Encoder, other: Encoder) -> bool:
    return torch.equal(one.eval()(IMAGES), other.eval()(IMAGES))


@pytest.mark.parametrize(("name", "as_zip"), [("resnet18", True), ("resnet50", False)])
@pytest.mark.difference("encoder-files")
def test_a_checkpoint_of_2021_is_read_without_its_lightning(
    tmp_path: Path, name: str, as_zip: bool
) -> None:
    path = tmp_path / "x.ckpt"
    saved = write_legacy_checkpoint(path, name, as_zip=as_zip)
    assert zipfile.is_zipfile(path) == as_zip
    encoder, spec = load_encoder("pretrain", None, path)
    assert same_features(encoder, saved)
    assert spec == SECO_SPEC


@pytest.mark.difference("encoder-contract")
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


def test_pixels_are_converted_one_image_at_a_time() -> None:
    transform = input_transform(SECO_SPEC, DataSpec.of_reflectance("x", ("B2", "B3", "B4")), "auto")
    for shape in ((2, 3, 8, 8), (2, 8, 8), (8, 8)):
        with pytest.raises(UserError, match="one image of 3 bands, B4 B3 B2, is expected"):
            transform.to_picture(np.zeros(shape, np.uint16))


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


def test_a_state_dict_from_before_batch_norms_counted_is_read(
    tmp_path: Path, encoder: Encoder, plain: State
) -> None:
    plain = {key: value for key, value in plain.items() if "num_batches" not in key}
    torch.save(plain, tmp_path / "resnet18-5c106cde.pth")
    loaded, _ = load_encoder("pretrain", None, tmp_path / "resnet18-5c106cde.pth")
    assert same_features(loaded, encoder)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_converted_to_float32(
    tmp_path: Path, plain: State, dtype: torch.dtype
) -> None:
    with_counters = dtype == torch.float64  # a script may convert every tensor
    stored = {
        key: value.to(dtype) if value.is_floating_point() or with_counters else value
        for key, value in plain.items()
    }
    torch.save(stored, tmp_path / "x.pth")
    save_file(stored, tmp_path / "x.safetensors")
    for name in ("x.pth", "x.safetensors"):
        loaded, _ = load_encoder("pretrain", None, tmp_path / name)
        for key, value in torchvision_state(loaded).items():
            if not key.startswith("fc."):
                assert torch.equal(value, stored[key].to(plain[key].dtype))
                assert value.dtype == plain[key].dtype


# As files of DataParallel, Lightning, torch.compile, MoCo, DINO, timm and others name tensors.
PREFIXES = ["", "module.", "backbone.", "_orig_mod.", "module.encoder_q.", "student.backbone."]
PREFIXES += ["online_network.encoder.", "net.0."]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("keys", [(), ("state_dict",), ("teacher",), ("checkpoint", "state_dict")])
def test_a_resnet_is_found_under_any_prefix_and_in_nested_dicts(
    tmp_path: Path, encoder: Encoder, plain: State, prefix: str, keys: tuple[str, ...]
) -> None:
    """It loses its classifier; its input is pictures."""
    stored: State = {f"{prefix}{key}": value for key, value in plain.items()}
    if prefix:
        stored |= {"projector.0.weight": torch.zeros(8, 8), "queue": torch.zeros(8, 8)}
    content: dict[str, Any] = dict(stored)
    for key in reversed(keys):
        content = {key: content, "epoch": 3, "optimizer": {"state": {0: {"step": 1}}}}
    torch.save(content, tmp_path / "x")
    if not keys:
        save_file(stored, tmp_path / "y")
    for name in ("x", "y")[: 1 if keys else 2]:  # known by their content
        loaded, spec = load_encoder("pretrain", None, tmp_path / name)
        assert same_features(loaded, encoder)
        assert spec == InputSpec.of_pictures()


@pytest.mark.parametrize("prefix", ["", "module.", "encoder_q.", "module.encoder_q."])
def test_bare_and_wrapped_encoders_of_seco_and_caco_have_the_contract_of_seco(
    tmp_path: Path, encoder: Encoder, prefix: str
) -> None:
    state = {f"{prefix}{key}": value for key, value in encoder.state_dict().items()}
    state |= {key.replace("_q", "_k"): value + 1 for key, value in state.items() if "_q" in key}
    torch.save({"state_dict": state}, tmp_path / "x.ckpt")
    loaded, spec = load_encoder("pretrain", None, tmp_path / "x.ckpt")
    assert same_features(loaded, encoder)
    assert spec == SECO_SPEC


@pytest.mark.parametrize(
    ("nest", "message"),
    [
        (
            lambda s: {"teacher": s, "student": {f"backbone.{key}": s[key] for key in s}},
            r"x\.pth holds 2 encoders, teacher > \*, student > backbone\.\*: save one",
        ),
        (
            lambda s: {f"{part}.{key}": s[key] for part in ("online", "target") for key in s},
            r"x\.pth holds 2 encoders, online\.\*, target\.\*: save",
        ),
        (
            lambda s: {"state_dict": {"a.b": s["fc.bias"]}, "x": 1},
            r"holds no encoder: conv1\.weight is missing, there is a\.b$",
        ),
        (lambda s: {"state_dict": [1]}, "its state_dict is not a dict"),
    ],
)
def test_several_encoders_or_none_are_named(
    tmp_path: Path, plain: State, nest: Callable[[State], Any], message: str
) -> None:
    torch.save(nest(plain), tmp_path / "x.pth")
    with pytest.raises(UserError, match=message):
        load_encoder("pretrain", None, tmp_path / "x.pth")


def test_a_dict_that_is_nested_many_times_is_searched_once() -> None:
    inner: dict[str, Any] = {}
    inner |= {str(number): inner for number in range(100)}
    assert len(nested_dicts({str(number): inner for number in range(100)})) == 2


HTML = b"<!DOCTYPE html>\n<html lang=en><head><title>Sign in</title>"
POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
)
# Of torch.onnx.export: ir_version 10, producer "pytorch".
ONNX = b"\x08\x0a\x12\x07pytorch\x1a\x052.9.0:\x80\x01"
STRANGERS = {
    b"": "is empty: download or copy it again",
    HTML: "is not a checkpoint but a web page: .* download the file itself",
    b"\n <html><body>404": "a web page",
    b"\xef\xbb\xbf<?xml version='1.0'?><Error><Code>AccessDenied</Code>": "a web page",
    POINTER: "a Git LFS pointer .* run `git lfs pull`",
    b'{"message": "Not Found"}': "a text in JSON",
    b"404: Not Found": "the error of a server",
    ONNX: "an ONNX graph for other programs: give what it was exported from",
    b"\x89HDF\r\n\x1a\n" + bytes(8): "an HDF5 file, as Keras writes",
    b"\x93NUMPY\x01\0v\0": "a NumPy array",
    b"\x1f\x8b\x08\x08": "compressed by gzip: unpack it",
    bytes(64): "a block of zeros: download or copy it again",
    pickle.dumps({"conv1.weight": [0.0]}, 4): "a pickle of protocol 4, .* save it there with torch",
    pickle.dumps({"conv1.weight": [0.0]}, 2): "a pickle that torch.save did not write",
}


@pytest.mark.parametrize("name", ["x.ckpt", "x.safetensors", "x/model.safetensors"])
@pytest.mark.parametrize("content", STRANGERS, ids=lambda content: repr(content[:12]))
def test_a_file_of_another_kind_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / name).write_bytes(content)
    path = tmp_path / name.split("/model")[0]
    with pytest.raises(UserError, match=STRANGERS[content]) as caught:
        load_encoder("pretrain", None, path)
    assert len(str(caught.value).splitlines()) == 1
    assert str(tmp_path / name) in str(caught.value)


def test_a_zip_around_a_checkpoint_and_pickle_protocol_4_are_refused_with_the_remedy(
    tmp_path: Path, plain: State
) -> None:
    torch.save(plain, tmp_path / "x.pth", pickle_protocol=4)
    with pytest.raises(UserError, match=r"x\.pth .* a pickle of protocol 4, .* torch\.save\("):
        load_encoder("pretrain", None, tmp_path / "x.pth")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.write(tmp_path / "x.pth", "weights/x.pth")
    with pytest.raises(
        UserError, match=r"a zip without data\.pkl, which holds weights/x\.pth: unp"
    ):
        load_encoder("pretrain", None, tmp_path / "x.zip")


@pytest.mark.parametrize(
    "name", ["resnet34", "resnet152", "resnext50_32x4d", "wide_resnet50_2", "resnet18_slim"]
)
def test_the_architecture_is_inferred_from_the_tensors(tmp_path: Path, name: str) -> None:
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: [s.pop(key) for key in ("bn1.bias", "bn1.weight")],
            r"does not fit a resnet18_slim: of its tensors 2 missing \(bn1\.bias, bn1\.weight\)$",
        ),
        (lambda s: s.update(head=s["fc.bias"]), r"tensors 1 too many \(head\)$"),
        (
            lambda s: s.update({f"layer9.{i}": s["fc.bias"] for i in range(5)}),
            r"5 too many \(layer9\.0, layer9\.1, layer9\.2 and 2 more\)",
        ),
        (
            lambda s: s.update({"bn1.bias": torch.zeros(3)}),
            r"1 of another shape or type \(bn1\.bias: float32 \(3,\)\)",
        ),
        (
            lambda s: s.update({"bn1.bias": s["bn1.bias"].to(torch.int8)}),
            r"another shape or type \(bn1\.bias: int8 \(16,\)\)",
        ),
        (
            lambda s: s.update({"bn1.bias": torch.full((16,), 1e300, dtype=torch.float64)}),
            r"1 not finite \(bn1\.bias\)$",
        ),
        (
            lambda s: s.update({"bn1.bias": torch.full((16,), torch.inf)}),
            r"1 not finite \(bn1\.bias\)$",
        ),
        (
            lambda s: s.update({"\x1b[2J" + "x" * 10**5: s["fc.bias"]}),
            r"1 too many \('\\x1b\[2Jx{70,80}\.\.\.\)",
        ),
        (lambda s: s.update({7: 7}), "7 is not a named tensor"),
        (lambda s: s.update({"bn1.bias": [0.0]}), r"bn1\.bias' is not a named tensor"),
        (lambda s: s.update({"0.weight": s["conv1.weight"]}), r"names conv1\.weight twice"),
        (
            lambda s: s.update({"conv1.weight": torch.zeros(1).expand(64, 10**9, 7, 7)}),
            r"conv1\.weight has shape \(64, 1000000000, 7, 7\), not 3 or more bands",
        ),
    ],
)
@pytest.mark.difference("encoder-tensors")
def test_tensors_that_do_not_fit_are_listed(
    tmp_path: Path, plain: State, change: Callable[[dict[Any, Any]], Any], message: str
) -> None:
    change(plain)
    torch.save(OrderedDict(plain), tmp_path / "x.pth")
    with pytest.raises(UserError, match=message):
        load_encoder("pretrain", None, tmp_path / "x.pth")


def test_encoder_and_bands_that_the_user_requires_are_those_of_the_file(
    tmp_path: Path, legacy: Path, plain: State
) -> None:
    with pytest.raises(UserError, match="holds a resnet18, not the resnet50 of --base_encoder"):
        load_encoder("pretrain", "resnet50", legacy)
    with pytest.raises(UserError, match=r"trained on B4 B3 B2, not on B2 B3 B4: leave --bands out"):
        load_encoder("pretrain", None, legacy, ["B2", "B3", "B4"])
    for bands in (["B4", "B3", "B2"], ["R", "G", "B"]):  # the same, as pictures name them
        assert load_encoder("pretrain", "resnet18", legacy, bands)[1] == SECO_SPEC
    many = ("B2", "B3", "B4", "B8")
    plain["conv1.weight"] = torch.zeros(16, 4, 7, 7)
    torch.save(plain, tmp_path / "x.pth")
    encoder, spec = load_encoder("pretrain", None, tmp_path / "x.pth", many)
    assert spec == InputSpec.of_pictures(many)
    assert encoder(torch.zeros(2, 4, 32, 32)).shape == (2, 128)
    for few in (None, many[:3]):
        with pytest.raises(UserError, match="takes 4 bands: give 4 names with --bands, not"):
            load_encoder("pretrain", None, tmp_path / "x.pth", few)


OTHER_BANDS = json.dumps(InputSpec.of_pictures(["B2", "B3", "B4", "B8"]).to_dict())


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"input_spec": "{"}, "not a readable safetensors file"),
        ({"input_spec": "[" * 100_000}, "not a readable safetensors file"),
        ({"input_spec": "[1]"}, "damaged input_spec"),
        ({"input_spec": OTHER_BANDS}, "takes 3 bands: give 3 names .* not B2 B3 B4 B8"),
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
    with pytest.raises(UserError, match="a safetensors file, which has tensors but no run state"):
        read_checkpoint(tmp_path / "x.safetensors")
    content = (tmp_path / "x.safetensors").read_bytes()
    (tmp_path / "x.safetensors").write_bytes(content[:100_000])
    with pytest.raises(UserError, match=r"x\.safetensors is not a readable safetensors file"):
        load_encoder("pretrain", None, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=r"there is no checkpoint .*model\.safetensors"):
        load_encoder("pretrain", None, tmp_path)

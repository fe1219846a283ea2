"""Quantiles of a SeCo data set: measured, read and published."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from datasets import seco_utils
from datasets.bands import ALL_BANDS, RGB_BANDS
from datasets.seco import folder as seco_folder
from datasets.seco.folder import decode_band
from datasets.seco.patches import SecoPatches, parse_quantiles
from datasets.store.reader import PackedStore
from tests.references.seco_files import pack, read_tif
from utils.errors import UserError


@pytest.mark.difference("quantiles")
def test_rgb_keeps_the_published_quantiles(seco_copy: Path) -> None:
    measured = {"B4": [50, 60], "B8": [7, 90]}
    (seco_copy / "quantiles.json").write_text(json.dumps({"quantiles": measured}))
    spec = SecoPatches(seco_copy, ["B4", "B8"]).input_spec
    assert spec.low == (0.0, 7.0)
    assert spec.high == (129.0, 90.0)


@pytest.mark.parametrize(
    "content", ["", "{}", '{"quantiles": {"B8": 3}}', "[]", '{"quantiles": {"B8": [9, 9]}}']
)
def test_damaged_quantiles_are_an_error(tmp_path: Path, content: str) -> None:
    with pytest.raises(UserError, match=r"quantiles\.json is damaged"):
        parse_quantiles(content.encode(), tmp_path / "quantiles.json")


def test_quantiles_are_those_of_all_pixels(seco_copy: Path) -> None:
    seco_utils.main(["--data_dir", str(seco_copy)])
    written = json.loads((seco_copy / "quantiles.json").read_text())["quantiles"]
    assert list(written) == list(ALL_BANDS)
    for band, limits in written.items():
        paths = [p for p in seco_copy.rglob(f"{band}.tif") if p.stem == band]
        pixels = np.concatenate([read_tif(path).ravel() for path in paths])
        expected = np.quantile(pixels, [0.02, 0.98], method="inverted_cdf")
        assert limits == expected.tolist()
    assert seco_utils.stretch_limits(np.bincount([4] * 100, minlength=256)) == (4, 5)  # a flat band


def test_quantiles_of_a_part_are_drawn_by_seed(
    seco_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []

    def recording_decode(data: bytes, name: str) -> np.ndarray:
        read.append(Path(name).parent)
        return decode_band(data, name)

    monkeypatch.setattr(seco_folder, "decode_band", recording_decode)
    histogram = seco_utils.measure_histograms(seco_root, num_images=3, seed=0)["B2"]
    assert histogram.sum() == 3 * 48 * 48
    first = set(read)
    read.clear()
    seco_utils.measure_histograms(seco_root, num_images=3, seed=0)
    assert set(read) == first
    assert len(first) == 3
    read.clear()
    seco_utils.measure_histograms(seco_root, num_images=3, seed=1)
    assert set(read) != first


def test_quantiles_of_a_store_are_those_of_its_source(seco_copy: Path, tmp_path: Path) -> None:
    """A zip has no room for the file: what it is packed into does."""
    archive = shutil.make_archive(str(tmp_path / "s"), "zip", seco_copy)
    with pytest.raises(UserError, match=r"s\.zip is a file: pack it .* and measure the store"):
        seco_utils.main(["--data_dir", archive])
    pack(Path(archive), tmp_path / "store", "--bands", *RGB_BANDS, "B8")
    for root in (seco_copy, tmp_path / "store"):
        seco_utils.main(["--data_dir", str(root)])
    of_store = json.loads((tmp_path / "store" / "quantiles.json").read_text())["quantiles"]
    of_folder = json.loads((seco_copy / "quantiles.json").read_text())["quantiles"]
    assert of_store == {band: of_folder[band] for band in (*RGB_BANDS, "B8")}
    patches = SecoPatches(seco_copy, ["B8", "B4"])
    assert PackedStore(tmp_path / "store", ["B8", "B4"]).input_spec == patches.input_spec


def test_failed_measurement_leaves_no_file(seco_copy: Path) -> None:
    path = sorted(seco_copy.glob("*/*/B3.tif"))[0]
    path.write_bytes(path.read_bytes()[:200])
    before = set(seco_copy.iterdir())
    with pytest.raises(UserError, match=r"B3\.tif is not a readable GeoTIFF"):
        seco_utils.main(["--data_dir", str(seco_copy)])
    assert set(seco_copy.iterdir()) == before


def test_a_pipe_of_quantiles_is_not_waited_for(seco_copy: Path, tmp_path: Path) -> None:
    pack(seco_copy, tmp_path / "store")
    for source in (SecoPatches(seco_copy), PackedStore(tmp_path / "store", RGB_BANDS)):
        os.mkfifo(source.root / "quantiles.json")
        with pytest.raises(OSError, match="not a regular file"):
            _ = source.input_spec

"""A SeCo zip read in place holds what its unpacked folder holds."""

import shutil
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from datasets import seco_utils
from datasets.archive import ZipFiles
from datasets.bands import ALL_BANDS
from datasets.seco.bad_patches import BadPatchError
from datasets.seco.patches import SecoPatches, is_seco
from tests.references.seco_files import zip_folder
from utils.errors import UserError


@pytest.mark.parametrize(
    ("prefix", "method"), [("", zipfile.ZIP_STORED), ("data/seco/", zipfile.ZIP_DEFLATED)]
)
def test_zip_holds_what_the_folder_holds(
    seco_copy: Path, tmp_path: Path, prefix: str, method: int
) -> None:
    assert list(seco_copy.glob("*/*.tif"))  # previews
    seco_utils.main(["--data_dir", str(seco_copy)])
    (seco_copy / ".DS_Store").touch()
    shutil.copytree(next(seco_copy.glob("[0-9]*")), seco_copy / "__MACOSX" / "000000")
    folder = SecoPatches(seco_copy, ALL_BANDS)
    packed = SecoPatches(zip_folder(seco_copy, tmp_path / "s.zip", prefix, method), ALL_BANDS)
    assert packed.places == [place for place in folder.places if "__MACOSX" not in place]
    assert packed.patch_shape == folder.patch_shape
    assert packed.input_spec == folder.input_spec
    for patch in range(int(packed.starts[-1])):
        np.testing.assert_array_equal(packed.read(patch), folder.read(patch))
        assert packed.name(patch) == folder.name(patch)


def test_missing_and_damaged_bands_are_named_as_in_the_folder(
    seco_copy: Path, tmp_path: Path
) -> None:
    dates = [path for path in sorted(seco_copy.glob("*/*")) if path.is_dir()]
    (dates[1] / "B3.tif").unlink()
    (dates[2] / "B4.tif").write_bytes(b"no picture")
    (dates[3] / "B2.tif").write_bytes((dates[3] / "B2.tif").read_bytes()[:200])
    folder = SecoPatches(seco_copy)
    packed = SecoPatches(zip_folder(seco_copy, tmp_path / "s.zip"))
    for patch in (1, 2, 3):
        with pytest.raises(BadPatchError) as expected:
            folder.read(patch)
        with pytest.raises(BadPatchError) as caught:
            packed.read(patch)
        assert caught.value.reason == expected.value.reason
        assert caught.value.name == expected.value.name.replace(
            str(seco_copy), str(tmp_path / "s.zip")
        )


def test_bytes_that_changed_in_the_zip_are_found(seco_root: Path, tmp_path: Path) -> None:
    path = zip_folder(seco_root, tmp_path / "s.zip", method=0)
    first = SecoPatches(path)
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(f"{first.name(0)}/B4.tif")
    data = bytearray(path.read_bytes())
    data[info.header_offset + 400] ^= 1
    path.write_bytes(data)
    with pytest.raises(BadPatchError, match=r"s\.zip/.*/B4\.tif is not a readable GeoTIFF"):
        SecoPatches(path).read(0)


def test_wrong_zips_are_refused(seco_root: Path, tmp_path: Path) -> None:
    path = zip_folder(seco_root, tmp_path / "two.zip", "a/")
    with zipfile.ZipFile(path, "a") as archive:
        archive.write(next(seco_root.glob("*/*/B4.tif")), "b/000000/date/B4.tif")
    with pytest.raises(UserError, match="holds places in a/ and in b/: keep one"):
        SecoPatches(path)
    with zipfile.ZipFile(tmp_path / "none.zip", "w") as archive:
        archive.writestr("a/b.txt", "text")
    assert not is_seco(tmp_path / "none.zip")
    with pytest.raises(UserError, match="holds no SeCo places"):
        SecoPatches(tmp_path / "none.zip")
    with zipfile.ZipFile(tmp_path / "rgb.zip", "w") as archive:
        for file in next(seco_root.glob("*/*/B4.tif")).parent.glob("B[234].tif"):
            archive.write(file, f"000000/date/{file.name}")
    with pytest.raises(UserError, match=r"no band B8, as its place 000000 shows: .* B2 B3 B4"):
        SecoPatches(tmp_path / "rgb.zip", ["B8"])


SPELLINGS: list[Callable[[str], str]] = [
    lambda band: f"{band}.TIF",
    lambda band: f"B{band[1:]:0>2}.tif",
    lambda band: f"{band.lower()}.tiff",
    lambda band: f"T31UDQ_20200101T105321_B{band[1:]:0>2}_10m.tif",
    lambda band: f"20200101T105321_T31UDQ.{band}.tif",
]


def rename_bands(root: Path, spell: Callable[[str], str]) -> None:
    for path in root.glob("*/*/B*.tif"):
        path.rename(path.with_name(spell(path.stem)))


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("spell", SPELLINGS, ids=[spell("B8") for spell in SPELLINGS])
def test_bands_under_other_spellings_are_read(
    seco_root: Path, seco_copy: Path, tmp_path: Path, spell: Callable[[str], str], zipped: bool
) -> None:
    rename_bands(seco_copy, spell)
    for date in seco_copy.glob("*/*/"):
        (date / f"._{spell('B4')}").write_bytes(b"\0\5\x16\7")  # AppleDouble
        (date / f".{spell('B4')}").write_bytes(b"no picture")
    root = zip_folder(seco_copy, tmp_path / "s.zip") if zipped else seco_copy
    assert is_seco(root)
    expected = SecoPatches(seco_root, ALL_BANDS)
    patches = SecoPatches(root, ALL_BANDS)
    assert patches.places == expected.places
    for patch in (0, 5, 23):
        np.testing.assert_array_equal(patches.read(patch), expected.read(patch))
    if not zipped:
        measured, published = (
            seco_utils.measure_histograms(folder, 5, seed=0) for folder in (root, seco_root)
        )
        for band in ALL_BANDS:
            np.testing.assert_array_equal(measured[band], published[band])


@pytest.mark.parametrize("zipped", [False, True])
def test_two_spellings_of_a_band_in_a_scene_are_refused(
    seco_copy: Path, tmp_path: Path, zipped: bool
) -> None:
    path = sorted(seco_copy.glob("*/*/B4.tif"))[1]
    shutil.copy(path, path.with_name("B04.TIF"))
    root = zip_folder(seco_copy, tmp_path / "s.zip") if zipped else seco_copy
    where = path.parent.relative_to(seco_copy).as_posix()
    with pytest.raises(UserError, match=rf"{where} has B04.TIF and B4.tif for band B4: keep one"):
        SecoPatches(root)


def test_member_that_was_added_again_counts_once(seco_root: Path, tmp_path: Path) -> None:
    path = zip_folder(seco_root, tmp_path / "s.zip")
    file = next(seco_root.glob("*/*/B4.tif"))
    with warnings.catch_warnings(), zipfile.ZipFile(path, "a") as archive:
        warnings.simplefilter("ignore", UserWarning)  # of zipfile, about the name
        archive.write(file, file.relative_to(seco_root).as_posix())
    assert SecoPatches(path).places == SecoPatches(seco_root).places


def test_all_places_of_a_large_zip_by_archive_utility_are_found(
    seco_root: Path, tmp_path: Path
) -> None:
    """7,290 places of 3 dates and 3 bands were 9 places: 65,610 modulo 65,536 is 74.

    Source: github.com/thejoshwolfe/yauzl/issues/60, a zip of 79,738 files that records 14,202.
    """
    content = next(seco_root.glob("*/*/B4.tif")).read_bytes()
    path = tmp_path / "archive_utility.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for place in range(7290):
            for name in (f"{date}/B{band}.tif" for date in "123" for band in "234"):
                is_read = place in (0, 7289)
                archive.writestr(f"{place:06}/{name}", content if is_read else b"")
    data = path.read_bytes()
    end = bytearray(data[data.rfind(b"PK\5\6") :])
    end[8:12] = struct.pack("<HH", 74, 74)
    path.write_bytes(data[: data.rfind(b"PK\6\6")] + end)  # no zip64 record
    with zipfile.ZipFile(path) as archive:
        assert [name for name, _ in ZipFiles(path).members()] == archive.namelist()
    patches = SecoPatches(path)
    assert len(patches.places) == 7290
    assert patches.read(3 * 7290 - 1).shape == (3, 48, 48)


@pytest.mark.parametrize(("method", "name"), [(9, "Deflate64"), (93, "Zstandard")])
def test_compression_that_is_not_read_is_named(
    seco_root: Path, tmp_path: Path, method: int, name: str
) -> None:
    path = zip_folder(seco_root, tmp_path / "s.zip")
    data = path.read_bytes()
    for signature, at in ((b"PK\3\4", 8), (b"PK\1\2", 10)):
        parts = data.split(signature)
        changed = [
            part[: at - 4] + struct.pack("<H", method) + part[at - 2 :] for part in parts[1:]
        ]
        data = signature.join([parts[0], *changed])
    path.write_bytes(data)
    with pytest.raises(UserError, match=rf"s\.zip .* compressed with {name}, .* pack it again"):
        SecoPatches(path)

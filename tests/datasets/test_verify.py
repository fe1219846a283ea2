"""The check of whole data sets: damage is found, good data pass, and the command's exit codes."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio.shutil
from PIL import Image

from benchmarks import damage
from benchmarks.reliability_verify import ONLY_LISTED, SETS, cases, verify_part
from datasets.bands import ALL_BANDS
from datasets.bigearthnet.facts import SIDE_PX
from datasets.checking.checks import check_order
from datasets.checking.checksums import compare_published
from datasets.checking.problems import JPEG_NOTE, LEAK, PLAIN_NOTE, SWAP_NOTE, SWAPPED
from datasets.mini_earth import write_eurosat
from datasets.verify import main, verify_data
from tests.references.bigearthnet_files import REAL, as_version_2
from utils.download import RemoteFile
from utils.errors import UserError

# Damage that may leave no trace, see docs/data.md; a list of checksums finds all of it.
SILENT = {
    "seco, JPEG": {damage.FLIP},
    "bigearthnet": {damage.FLIP},
    "bigearthnet lmdb": {damage.FLIP},
    "eurosat rgb": {damage.FLIP},
    "litdata": {damage.FLIP},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sets")


FAST = ("seco zip, JPEG", "eurosat rgb", "store", "litdata")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in FAST)) for name in SETS]
)
def test_damage_of_every_kind_is_found_and_clean_data_pass(name: str, folder: Path) -> None:
    for at, (of, kind, _) in enumerate(cases(1)):
        if of == name:
            (trial,) = verify_part(at, at + 1, folder, 1)
            is_silent = kind == damage.SWAPPED or kind in SILENT.get(name, ())
            assert trial.failure in (None, *[ONLY_LISTED] * is_silent), trial


@pytest.fixture
def real_root(tmp_path: Path) -> Path:
    """Return the three real patches in the layout of version 1."""
    if not REAL.is_dir():
        pytest.skip("the real data are not here")
    root = tmp_path / "real"
    shutil.copytree(REAL / "bigearthnet_tiny", root / "BigEarthNet-v1.0")
    names = sorted(path.name for path in (root / "BigEarthNet-v1.0").iterdir())
    for name, split in zip(names, ("train", "val", "test"), strict=True):
        (root / f"bigearthnet-{split}.txt").write_text(name)
    for name in ("patches_with_seasonal_snow.csv", "patches_with_cloud_and_shadow.csv"):
        (root / name).symlink_to(REAL / "bigearthnet_metadata" / name)
    return root


def test_real_patches_pass(real_root: Path) -> None:
    tally = verify_data(real_root, 0)
    assert (tally.to_json()["problems"], tally.num_files) == ([], 36)


def test_previews_are_neither_extra_nor_pictures_of_eurosat(seco_root: Path) -> None:
    tally = verify_data(seco_root, 0)
    assert (tally.to_json()["problems"], tally.num_files) == ([], 6 * 4 * 12)
    assert tally.notes == [SWAP_NOTE]  # Deflate has checksums


def test_what_cannot_be_found_is_said_of_the_files_that_are_there(
    seco_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "seco"
    shutil.copytree(seco_root / "000000", root / "000000")
    for compress, note in (("JPEG", JPEG_NOTE), ("NONE", PLAIN_NOTE)):
        path = next(root.rglob("B4.tif"))
        rasterio.shutil.copy(path, tmp_path / "copy.tif", driver="GTiff", compress=compress)
        (tmp_path / "copy.tif").replace(path)
        main([str(root), "--num_workers", "0"])
        notes = [f"cannot be found: {each}" for each in (SWAP_NOTE, note)]
        assert capsys.readouterr().out.splitlines()[:-1] == notes


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="the real data are not here")
def test_all_real_pictures_pass() -> None:
    tally = verify_data(REAL / "EuroSAT_RGB.zip", 2)
    assert (tally.to_json()["problems"], tally.num_files) == ([], 27_000)


def test_bands_far_apart_in_wavelength_are_found_where_swapped() -> None:
    """The correlations of neighbours fall off with the distance in the list of bands."""
    rng = np.random.default_rng(0)
    walk = np.cumsum(rng.normal(size=(len(ALL_BANDS), 20, 20)), axis=0)
    planes = {
        band: plane.repeat(SIDE_PX[band] // 20, 0).repeat(SIDE_PX[band] // 20, 1)
        for band, plane in zip(ALL_BANDS, walk, strict=True)
    }
    assert check_order(planes, "patch") == []
    planes["B2"], planes["B8"] = planes["B8"], planes["B2"]
    (found,) = check_order(planes, "patch")
    assert (found.kind, found.what) == (SWAPPED, "look swapped: B2 and B8")


def test_pictures_with_blue_first_are_found_as_a_whole(tmp_path: Path) -> None:
    root = tmp_path / "eurosat"
    write_eurosat(root, images_per_class=15, size=16, num_workers=1)
    assert not verify_data(root, 0).counts
    for path in root.glob("*/*.jpg"):
        with Image.open(path) as image:
            swapped = Image.fromarray(np.asarray(image)[..., ::-1])
        swapped.save(path)
    assert verify_data(root, 0).counts == {SWAPPED: 1}


def test_an_archive_with_a_published_name_is_compared(seco_root: Path, tmp_path: Path) -> None:
    path = tmp_path / "seco_100k.zip"
    shutil.make_archive(str(path.with_suffix("")), "zip", seco_root)
    (found,) = verify_data(path, 0).to_json()["problems"]
    assert found["what"] == "differs from the md5 of the published archive"
    path.write_bytes(b"PK")
    same = RemoteFile(path.name, (), "", 2, sha256=hashlib.sha256(b"PK").hexdigest())
    for file in (same, replace(same, size=3, md5="other")):  # another size: not that archive
        assert compare_published(path, [file]) == []


def test_a_place_in_two_splits_of_version_2_is_a_leak(
    bigearthnet_root: Path, tmp_path: Path
) -> None:
    root = as_version_2(bigearthnet_root, tmp_path / "v2")
    path = root / "metadata.parquet"
    rows = [row for row in pq.read_table(path).to_pylist() if row["labels"]]
    pq.write_table(pa.Table.from_pylist(rows), path)
    assert not verify_data(root, 0).counts
    one, other = rows[0]["patch_id"], rows[-1]["patch_id"]  # of train and test
    moved = "_".join([*other.split("_")[:-2], *one.split("_")[-2:]])
    rows[-1]["patch_id"] = moved
    pq.write_table(pa.Table.from_pylist(rows), path)
    (folder,) = root.glob(f"*/*/{other}")
    for file in folder.iterdir():
        file.rename(folder / file.name.replace(other, moved))
    folder.rename(folder.with_name(moved))
    (found,) = verify_data(root, 0).to_json()["problems"]
    assert (found["kind"], found["what"].partition(" in ")[2]) == (LEAK, "test and train")


def test_the_command_prints_a_table_and_exits_with_1_for_damage(
    oscd_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "oscd"
    shutil.copytree(oscd_root, root)
    report, checksums = tmp_path / "found.json", tmp_path / "oscd.sha256"
    main([str(root), "--num_workers", "1", "--write_checksums", str(checksums)])
    assert "nothing found" in capsys.readouterr().out
    city = sorted(root.glob("*/imgs_1_rect"))[0]
    (city / "B02.tif").unlink()
    (root / "train.txt").write_text(f"{(root / 'train.txt').read_text().strip()},brasilia")
    with pytest.raises(SystemExit, match="1"):
        main([str(root), "--num_workers", "0", "--json", str(report)])
    shown = f"1  missing\n          {city.parent.name}/imgs_1_rect/B02.tif"
    assert shown in capsys.readouterr().out
    assert json.loads(report.read_text())["counts"] == {LEAK: 1, "missing": 1}
    with pytest.raises(SystemExit, match="1"):
        main([str(root), "--num_workers", "0", "--checksums", str(checksums)])
    printed = capsys.readouterr().out
    assert "1  missing" in printed
    assert "train.txt: differs from its sha256" in printed


@pytest.mark.parametrize("flags", [["--checksums", "x", "--write_checksums", "x"], []])
def test_what_is_not_a_data_set_is_one_sentence(flags: list[str], tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    with pytest.raises(UserError, match=r"is not one of SeCo, .* chunks|: use one$|does not exist"):
        main([str(tmp_path), "--num_workers", "0", *flags])

"""Lists of BigEarthNet: found, read, and checked against each other."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datasets.bigearthnet.lists import (
    BAD_LISTS,
    CLOUD,
    SNOW,
    Listing,
    read_lists,
    read_metadata,
    write_metadata,
)
from tests.references.bigearthnet_files import REAL
from utils.errors import UserError

METADATA = REAL / "bigearthnet_metadata"
V1 = "S2A_MSIL2A_20170613T101031_26_{}"
V2 = "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_26_{}"
S1 = "S1B_IW_GRDH_1SDV_20170612T165809_33UUP_26_{}"
SPLITS = {"train": "1 2", "val": "3", "test": "4"}


def names(numbers: str) -> list[str]:
    return [V1.format(number) for number in numbers.split()]


def write(folder: Path, lists: dict[str, str], style: str = "{}.txt") -> Path:
    """Write a line for each number, into split lists and, of the original, those of bad patches."""
    every = SPLITS | (dict.fromkeys(BAD_LISTS, "") if style == "{}.txt" else {}) | lists
    for what, numbers in every.items():
        path = folder / BAD_LISTS.get(what, style.format(what))
        path.write_text("".join(f"{name}\n" for name in names(numbers)))
    return folder


def test_patches_with_snow_or_clouds_are_left_out_and_counted_once(tmp_path: Path) -> None:
    root = write(tmp_path, {"train": "7 2 1", "test": "4 5", SNOW: "2 9", CLOUD: "4 2"})
    listing = read_lists([root])
    assert listing.splits == {"train": names("7 1"), "val": names("3"), "test": names("5")}
    assert listing.left_out == {SNOW: 1, CLOUD: 1}
    assert listing.names == names("7 1 3 5")  # in their order
    snow = root / BAD_LISTS[SNOW]
    snow.write_bytes(snow.read_bytes().replace(b"\n", b"\r\n"))  # of Windows
    (root / "test.txt").unlink()  # may be missing
    assert read_lists([root]).splits == {"train": names("7 1"), "val": names("3")}


LAYOUTS: dict[str, list[str | None]] = {  # of a row, and of the heading
    "{v1}": [None, "patch_id"],
    "{v1},{s1}": [None, "S2,S1"],
    "{s1},{v1}": ["S1,S2"],
    "{n},{v1}": [None, ",patch", ",0"],
    '"{n}","{v1}","Pastures, Salines"': [None, '"","name","labels"'],
    "{n};{v1};{s1}": [";S2;S1"],
    "{v1}\t{s1}": [None],
    "{v2},Pastures,train,{v1}": ["patch_id,labels,split,s2v1_name"],
}


@pytest.mark.parametrize(
    ("row", "heading"), [(row, heading) for row in LAYOUTS for heading in LAYOUTS[row]]
)
@pytest.mark.difference("ben-versions")
def test_lists_are_csv_with_or_without_heading_index_and_quotes(
    tmp_path: Path, row: str, heading: str | None
) -> None:
    for what, numbers in (SPLITS | {SNOW: "2", CLOUD: "9"}).items():
        rows = [
            row.format(n=n, v1=V1.format(n), v2=V2.format(n), s1=S1.format(n))
            for n in numbers.split()
        ]
        lines = [*([] if heading is None else [heading]), *rows, ""]
        path = tmp_path / BAD_LISTS.get(what, f"{what}.csv")
        path.write_text("\n".join(lines), encoding="utf-8-sig")
    listing = read_lists([tmp_path])
    assert listing.splits == {"train": names("1"), "val": names("3"), "test": names("4")}
    assert listing.left_out == {SNOW: 1, CLOUD: 0}


def test_csv_lists_of_tu_berlin_need_no_lists_of_snow_and_clouds(tmp_path: Path) -> None:
    assert read_lists([write(tmp_path, {}, "{}.csv")]).left_out == {}


def test_lists_of_another_data_set_are_ignored(tmp_path: Path) -> None:
    root = write(tmp_path, {SNOW: "", CLOUD: ""}, "bigearthnet-{}.txt")
    (root / "deep").mkdir()
    for folder in (root, root / "deep"):
        (folder / "train.txt").write_text("Forest_1.jpg\nForest_2.jpg")
    with pytest.warns(UserWarning, match=r"\*\.txt is ignored: it names no patch of v1"):
        found = read_lists([root / "deep", root])
    assert found.splits == {split: names(numbers) for split, numbers in SPLITS.items()}


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"train": "1 2 5", "test": "4 5 2"}, f"leak: 2 .* is {V1.format(2)} in train and test"),
        ({SNOW: "1", "val": "3 1"}, "leak: 1 patches"),  # though it has snow
        ({"train": "1 2 1"}, f"first is {V1.format(1)} in train"),
        ({"val": ""}, "no patch is left in the val split"),
        ({SNOW: "3"}, "no patch is left in the val split"),
    ],
)
def test_lists_that_leak_or_are_empty_are_refused(
    tmp_path: Path, lists: dict[str, str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        read_lists([write(tmp_path, lists)])


def test_lists_that_are_missing_double_or_no_lists_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has none: keep or add bigearthnet-train\.txt"):
        read_lists([tmp_path])
    for name in ("val.txt", BAD_LISTS[SNOW]):
        (write(tmp_path, {}) / name).unlink()
        with pytest.raises(UserError, match=f"but no {name}: add it"):
            read_lists([tmp_path])
    for what, name in (("val", "val.txt"), (SNOW, BAD_LISTS[SNOW])):
        (write(tmp_path, {}) / name).write_text(f"{V1.format(8)}\n<html>\n")
        with pytest.raises(UserError, match=f"the list {what} of .* has lines that name no patch"):
            read_lists([tmp_path])
    write(write(tmp_path, {}), {}, "bigearthnet-{}.txt")
    with pytest.raises(UserError, match=r"has bigearthnet-\*\.txt and \*\.txt: keep"):
        read_lists([tmp_path])


def parquet(path: Path, **columns: list[object]) -> Path:
    rows = {"patch_id": ["a", "b", "c"], "labels": [["Pastures"]] * 3}
    rows |= {"split": ["train", "validation", "test"]}
    pq.write_table(pa.table(rows | columns), path)
    return path


def test_metadata_leaves_out_what_it_flags(tmp_path: Path) -> None:
    path = parquet(
        tmp_path / "m.parquet",
        patch_id=[*"dbca"],
        labels=[["Pastures"]] * 4,
        split=["train", "validation", "test", "train"],
        contains_seasonal_snow=[True, False, False, False],
    )
    listing = read_metadata(path)
    assert listing.splits == {"train": ["a"], "val": ["b"], "test": ["c"]}
    assert listing.left_out == {SNOW: 1}


def test_written_metadata_is_read_back(tmp_path: Path) -> None:
    listing = Listing({"train": ["c", "a"], "val": ["d"]})
    labels = [["Pastures"], ["Airports", "Salines"], []]
    write_metadata(tmp_path / "metadata.parquet", listing, labels)
    again = read_metadata(tmp_path / "metadata.parquet")
    assert again.splits == listing.splits
    assert again.labels == dict(zip("cad", labels, strict=True))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"split": ["train", "nowhere", "test"]}, "is not BigEarthNet's metadata"),
        ({"split": ["train", None, "test"]}, "is not BigEarthNet's metadata"),
        ({"split": [["train"], ["val"], ["test"]]}, "is not BigEarthNet's metadata"),
        ({"patch_id": ["a", None, "c"]}, "is not BigEarthNet's metadata"),
        ({"labels": [["Pastures"], None, []]}, "is not BigEarthNet's metadata"),
        ({"labels": [["Pastures"], [None], []]}, "is not BigEarthNet's metadata"),
        ({"patch_id": ["a", "a", "c"]}, "leak: 1 patches .* first is a in train and val"),
        ({"split": ["train", "test", "test"]}, "no patch is left in the val split"),
    ],
)
def test_damaged_metadata_is_one_sentence(
    tmp_path: Path, columns: dict[str, list[object]], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        read_metadata(parquet(tmp_path / "m.parquet", **columns))


def test_metadata_without_a_column_or_no_parquet_is_named(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    pq.write_table(pa.table({"patch_id": ["a"]}), path)
    for content in (path.read_bytes(), b"PAR1 nothing"):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"m\.parquet is not BigEarthNet's metadata"):
            read_metadata(path)


@pytest.mark.skipif(not METADATA.is_dir(), reason="the real lists are not here")
def test_real_metadata_has_the_published_splits() -> None:
    listing = read_metadata(METADATA / "metadata.parquet")
    sizes = {split: len(names) for split, names in listing.splits.items()}
    assert sizes == {"train": 237_871, "val": 122_342, "test": 119_825}
    assert sum(listing.left_out.values()) == 0


@pytest.mark.skipif(not METADATA.is_dir(), reason="the real lists are not here")
def test_real_lists_of_snow_and_clouds_leave_out_their_patches(tmp_path: Path) -> None:
    root = write(tmp_path, {})
    snow, cloud = ((METADATA / name).read_text().split() for name in BAD_LISTS.values())
    assert (len(snow), len(cloud)) == (61_707, 9_280)
    (root / "train.txt").write_text("\n".join([*names("1 2"), *{*snow, *cloud}]))
    for name in BAD_LISTS.values():
        (root / name).unlink()
        (root / name).symlink_to(METADATA / name)
    listing = read_lists([root])
    assert listing.splits["train"] == names("1 2")
    assert listing.left_out == {SNOW: len(snow), CLOUD: len({*cloud} - {*snow})}

"""Lists of BigEarthNet: found, read, and checked against each other."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datasets.bigearthnet.lists import CLOUD, SNOW, read_lists, read_metadata, write_metadata
from tests.references.bigearthnet_files import REAL
from utils.errors import UserError

METADATA = REAL / "bigearthnet_metadata"


def write(folder: Path, **lists: str) -> Path:
    """Write lists by the name of their file, with __ for a dot and spaces for line ends."""
    for name, names in lists.items():
        (folder / name.replace("__", ".")).write_text("".join(f"{n}\n" for n in names.split()))
    return folder


def write_all(folder: Path, snow: str = "", cloud: str = "", **lists: str) -> Path:
    bad = {"patches_with_seasonal_snow__csv": snow, "patches_with_cloud_and_shadow__csv": cloud}
    return write(folder, **bad, **{"train__txt": "a b", "val__txt": "c", "test__txt": "d"} | lists)


def parquet(path: Path, **columns: list[object]) -> Path:
    rows = {"patch_id": ["a", "b", "c"], "labels": [["Pastures"]] * 3}
    rows |= {"split": ["train", "validation", "test"]}
    pq.write_table(pa.table(rows | columns), path)
    return path


def test_patches_with_snow_or_clouds_are_left_out_and_counted_once(tmp_path: Path) -> None:
    lists = {"train__txt": "y b a", "test__txt": "d e"}
    root = write_all(tmp_path, snow="b z", cloud="d b", **lists)
    listing = read_lists([root])
    assert listing.splits == {"train": ["y", "a"], "val": ["c"], "test": ["e"]}  # in their order
    assert listing.left_out == {SNOW: 1, CLOUD: 1}
    assert listing.names == ["y", "a", "c", "e"]
    (root / "patches_with_seasonal_snow.csv").write_bytes(b"b\r\nz\r\n")  # of Windows
    (root / "test.txt").unlink()  # may be missing
    assert read_lists([root]).splits == {"train": ["y", "a"], "val": ["c"]}


def test_csv_lists_of_tu_berlin_have_the_patch_first_and_need_no_bad_lists(tmp_path: Path) -> None:
    write(tmp_path, train__csv="a,S1_a b,S1_b", val__csv="c,S1_c", test__csv="S2,S1 d,S1_d")
    listing = read_lists([tmp_path])
    assert listing.splits == {"train": ["a", "b"], "val": ["c"], "test": ["d"]}
    assert listing.left_out == {}


V1 = "S2A_MSIL2A_20170613T101031_26_{}"
V2 = "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_26_{}"
S1 = "S1B_IW_GRDH_1SDV_20170612T165809_33UUP_26_{}"
LAYOUTS = {  # of a row, and of the heading
    "{v1}": [None, "patch_id", "image"],
    "{v1},{s1}": [None, "S2,S1", "a,b"],
    "{s1},{v1}": [None, "S1,S2"],
    "{n},{v1}": [None, ",patch", ",0", "id,image"],
    '"{v1}","{s1}"': [None, '"S2","S1"'],
    '"{n}","{v1}","Pastures, Salines"': [None, '"","name","labels"'],
    "{n};{v1};{s1}": [None, ";S2;S1", ";0;1"],
    "{v1}\t{s1}": [None, "S2\tS1"],
    "{v2},Pastures,train,{v1}": [None, "patch_id,labels,split,s2v1_name"],
}


@pytest.mark.parametrize(
    ("row", "heading"), [(row, heading) for row in LAYOUTS for heading in LAYOUTS[row]]
)
@pytest.mark.difference("ben-versions")
def test_lists_are_csv_with_or_without_heading_index_and_quotes(
    tmp_path: Path, row: str, heading: str | None
) -> None:
    expected = {"train": [1, 2], "val": [3], "test": [4]}
    bad = {"patches_with_seasonal_snow": [2], "patches_with_cloud_and_shadow": [9]}
    for name, numbers in (expected | bad).items():
        rows = [row.format(n=n, v1=V1.format(n), v2=V2.format(n), s1=S1.format(n)) for n in numbers]
        lines = [*([] if heading is None else [heading]), *rows, ""]
        (tmp_path / f"{name}.csv").write_text("\n".join(lines), encoding="utf-8-sig")
    listing = read_lists([tmp_path])
    assert listing.splits == {
        "train": [V1.format(1)],
        "val": [V1.format(3)],
        "test": [V1.format(4)],
    }
    assert listing.left_out == {SNOW: 1, CLOUD: 0}


@pytest.mark.parametrize("heading", ["S2,S1", ",patch_id"])
def test_names_of_ones_own_are_found_by_their_heading(tmp_path: Path, heading: str) -> None:
    row = "{},x" if heading == "S2,S1" else "7,{}"
    for split, name in (("train", "a"), ("val", "b")):
        (tmp_path / f"{split}.csv").write_text(f"{heading}\n{row.format(name)}\n")
    assert read_lists([tmp_path]).splits == {"train": ["a"], "val": ["b"]}


def test_a_csv_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    write_all(tmp_path)
    (tmp_path / "val.txt").write_text("x" * 200_000)
    with pytest.raises(UserError, match=r"val\.txt is not readable as csv: field larger"):
        read_lists([tmp_path])


def test_lists_of_another_data_set_are_ignored(tmp_path: Path) -> None:
    write_all(tmp_path)
    for name in ("train.txt", "val.txt", "test.txt"):
        (tmp_path / name).rename(tmp_path / f"bigearthnet-{name}")
    write(tmp_path, train__txt="Forest_1.jpg", val__txt="Forest_2.jpg")
    with pytest.warns(UserWarning, match=r"\*\.txt is ignored: it names none of the patches"):
        assert read_lists([tmp_path], lambda: set("abcd")).splits["val"] == ["c"]
    (tmp_path / "deep").mkdir()
    write(tmp_path / "deep", train__txt="Forest_1.jpg", val__txt="Forest_2.jpg")
    with pytest.warns(UserWarning, match="is ignored"):
        found = read_lists([tmp_path / "deep", tmp_path], lambda: set("abcd"))
    assert found.splits["val"] == ["c"]


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        (
            {"train__txt": "a b e", "test__txt": "d e b"},
            "leak: 2 patches .* first is b in train and test",
        ),
        ({"snow": "a", "val__txt": "c a"}, "leak: 1 patches"),  # though it has snow
        ({"train__txt": "a b a"}, "first is a in train twice"),
        ({"val__txt": ""}, "the val split of .* is empty"),
        ({"snow": "c"}, "the val split of .* has only patches with snow or clouds"),
        ({"bigearthnet-train__txt": "a"}, r"two sets of split lists, bigearthnet-\*.txt and \*"),
    ],
)
def test_lists_that_leak_or_are_useless_are_one_sentence(
    tmp_path: Path, lists: dict[str, str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        read_lists([write_all(tmp_path, **lists)])


@pytest.mark.parametrize("name", ["val.txt", "patches_with_seasonal_snow.csv"])
def test_a_missing_list_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"no split lists: put bigearthnet-train\.txt"):
        read_lists([tmp_path])
    (write_all(tmp_path) / name).unlink()
    with pytest.raises(UserError, match=f"no {name}"):
        read_lists([tmp_path])


def test_metadata_leaves_out_what_it_flags(tmp_path: Path) -> None:
    path = parquet(
        tmp_path / "m.parquet",
        patch_id=["a", "b", "c", "d"],
        labels=[["Pastures"]] * 4,
        split=["train", "validation", "test", "train"],
        contains_seasonal_snow=[False, False, False, True],
    )
    listing = read_metadata(path)
    assert listing.splits == {"train": ["a"], "val": ["b"], "test": ["c"]}
    assert listing.left_out == {SNOW: 1}


def test_written_metadata_is_read_back(tmp_path: Path) -> None:
    listing = read_lists([write_all(tmp_path, snow="b")])
    labels = [["Pastures"], ["Airports", "Salines"], []]
    write_metadata(tmp_path / "metadata.parquet", listing, labels)
    again = read_metadata(tmp_path / "metadata.parquet")
    assert again.splits == listing.splits
    assert again.labels == dict(zip("acd", labels, strict=True))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"split": ["train", "nowhere", "test"]}, "damaged row: 'b', .* split 'nowhere'"),
        ({"split": ["train", None, "test"]}, "damaged row: 'b'"),
        ({"split": [["train"], ["val"], ["test"]]}, "damaged row: 'a'"),
        (
            {"patch_id": list(np.arange(1, 4).astype("datetime64[ns]"))},
            r"m\.parquet is not a readable parquet",
        ),
        ({"labels": [["Pastures"], None, []]}, "damaged row: 'b', None"),
        ({"patch_id": ["a", "a", "c"]}, "leak: 1 patches .* first is a in train and val"),
        ({"split": ["train", "test", "test"]}, "the val split of .* is empty"),
    ],
)
def test_damaged_metadata_is_one_sentence(
    tmp_path: Path, columns: dict[str, list[object]], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        read_metadata(parquet(tmp_path / "m.parquet", **columns))


def test_metadata_without_a_column_or_no_parquet_is_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"patch_id": ["a"]}), tmp_path / "m.parquet")
    with pytest.raises(UserError, match=r"m\.parquet has no column labels"):
        read_metadata(tmp_path / "m.parquet")
    (tmp_path / "m.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(UserError, match=r"m\.parquet is not a readable parquet"):
        read_metadata(tmp_path / "m.parquet")


@pytest.mark.skipif(not METADATA.is_dir(), reason="the real lists are not here")
def test_real_metadata_has_the_published_splits() -> None:
    listing = read_metadata(METADATA / "metadata.parquet")
    sizes = {split: len(names) for split, names in listing.splits.items()}
    assert sizes == {"train": 237_871, "val": 122_342, "test": 119_825}
    assert sum(listing.left_out.values()) == 0


@pytest.mark.skipif(not METADATA.is_dir(), reason="the real lists are not here")
def test_real_lists_of_snow_and_clouds_leave_out_their_patches(tmp_path: Path) -> None:
    for name in ("patches_with_seasonal_snow.csv", "patches_with_cloud_and_shadow.csv"):
        (tmp_path / name).symlink_to(METADATA / name)
    snowy = (METADATA / "patches_with_seasonal_snow.csv").read_text().split()[:3]
    cloudy = (METADATA / "patches_with_cloud_and_shadow.csv").read_text().split()[-1]
    write(
        tmp_path, train__txt=" ".join([V1.format(1), *snowy]), val__txt=f"{V1.format(2)} {cloudy}"
    )
    listing = read_lists([tmp_path])
    assert listing.splits == {"train": [V1.format(1)], "val": [V1.format(2)]}
    assert listing.left_out == {SNOW: 3, CLOUD: 1}

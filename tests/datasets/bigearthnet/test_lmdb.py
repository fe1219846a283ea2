"""BigEarthNet's LMDB: written whole or not at all, read as rico-hdl writes it, never trusted."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lmdb
import numpy as np
import pyarrow.parquet as pq
import pytest
from filelock import FileLock
from safetensors.numpy import load, save
from torch.utils.data import DataLoader

from datasets.bands import ALL_BANDS, RGB_BANDS
from datasets.bigearthnet import writer as bigearthnet_writer
from datasets.bigearthnet.facts import FILE_NAMES, SIDE_PX
from datasets.bigearthnet.index import open_bigearthnet
from datasets.bigearthnet.lists import BAD_LISTS
from datasets.bigearthnet.lmdb_store import PatchLmdb
from datasets.bigearthnet_dataset import main
from tests.references.bigearthnet_files import as_version_2, kept, labels_in, lines
from tests.references.bigearthnet_pictures import pictures
from utils.errors import UserError


def convert(root: Path, save_dir: Path, *flags: str, workers: int = 0) -> None:
    paths = ["--data_dir", str(root), "--save_dir", str(save_dir)]
    main([*paths, "--num_workers", str(workers), *flags])


def contents(folder: Path) -> dict[str, bytes]:
    """Read keys and values of a copy, because a process must not open an LMDB twice."""
    with (
        TemporaryDirectory() as copy,
        lmdb.open(shutil.copytree(folder, f"{copy}/db"), readonly=True, lock=False) as environment,
        environment.begin() as transaction,
    ):
        return {key.decode(): value for key, value in transaction.cursor()}


def planes(**changes: np.ndarray | None) -> dict[str, np.ndarray]:
    """Bands of a made-up patch."""
    bands = {FILE_NAMES[b]: np.full((SIDE_PX[b],) * 2, 7, np.uint16) for b in ALL_BANDS}
    return {name: plane for name, plane in (bands | changes).items() if plane is not None}


def one_patch(folder: Path, value: bytes) -> PatchLmdb:
    folder.mkdir(exist_ok=True)
    with (
        lmdb.open(str(folder), map_size=2**24) as environment,
        environment.begin(write=True) as transaction,
    ):
        transaction.put(b"patch", value)
    return PatchLmdb(folder)


def test_an_lmdb_is_what_rico_hdl_writes(bigearthnet_root: Path, lmdb_root: Path) -> None:
    """Splits and labels are stored next to it in the columns of version 2."""
    values = contents(lmdb_root)
    names = [n for split in ("train", "val", "test") for n in kept(bigearthnet_root, split)]
    assert list(values) == sorted(names)
    folder = open_bigearthnet(bigearthnet_root).source
    for name in names[:3]:
        stored = load(values[name])
        assert sorted(stored) == sorted(FILE_NAMES.values())
        for band, plane in zip(ALL_BANDS, folder.read(name, ALL_BANDS), strict=True):
            assert stored[FILE_NAMES[band]].dtype == np.uint16
            assert np.array_equal(stored[FILE_NAMES[band]], plane)
    assert sorted(path.name for path in lmdb_root.iterdir()) == ["data.mdb", "metadata.parquet"]
    rows = pq.read_table(lmdb_root / "metadata.parquet").to_pylist()
    assert [row["patch_id"] for row in rows if row["split"] == "validation"] == kept(
        bigearthnet_root, "val"
    )
    assert all(row["labels"] == labels_in(bigearthnet_root, row["patch_id"]) for row in rows)


@pytest.mark.parametrize("num_classes", [19, 43])
@pytest.mark.difference("ben-lmdb")
def test_an_lmdb_is_the_same_data_set(
    bigearthnet_root: Path, lmdb_root: Path, num_classes: int
) -> None:
    folder = open_bigearthnet(bigearthnet_root, num_classes=num_classes)
    stored = open_bigearthnet(lmdb_root, lmdb=True, num_classes=num_classes)
    assert stored.names == folder.names
    assert stored.targets.equal(folder.targets)
    assert all(stored.splits[split].equal(rows) for split, rows in folder.splits.items())
    for split in folder.splits:
        assert pictures(stored, split)[2][0].equal(pictures(folder, split)[2][0])


def test_version_2_is_written_too_and_may_be_stored_below_the_metadata(
    bigearthnet_root: Path, tmp_path: Path
) -> None:
    root = as_version_2(bigearthnet_root, tmp_path / "v2")
    convert(root, tmp_path / "saved", "--bands", *RGB_BANDS)
    folder = open_bigearthnet(root)
    (root / "Encoded-BigEarthNet").mkdir()  # as rico-hdl leaves it
    shutil.copy(tmp_path / "saved" / "data.mdb", root / "Encoded-BigEarthNet")
    for data_dir in (tmp_path / "saved", root):
        stored = open_bigearthnet(data_dir, lmdb=True)
        assert stored.targets.equal(folder.targets)
        assert pictures(stored)[0][0].equal(pictures(folder)[0][0])
    with pytest.raises(UserError, match="has no band B08, only B02 B03 B04"):
        stored.source.read(stored.names[0], ["B8"])


def test_processes_write_the_same_lmdb_and_report_what_they_left_out(
    bigearthnet_root: Path,
    lmdb_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(bigearthnet_writer, "_BLOCK", 7)
    convert(bigearthnet_root, tmp_path / "saved", workers=2)
    assert contents(tmp_path / "saved") == contents(lmdb_root)
    (snowy, _), *_ = ((len(lines(bigearthnet_root / name)), name) for name in BAD_LISTS.values())
    expected = f"patches of 12 bands; left out: {snowy} with seasonal snow, "
    assert expected in capsys.readouterr().out


def test_forked_workers_open_it_themselves(lmdb_root: Path) -> None:
    data: Any = pictures(open_bigearthnet(lmdb_root, lmdb=True))
    expected = data[len(data) - 1][0]  # opens it before the workers are forked
    *_, (last, _, _) = DataLoader(data, batch_size=8, num_workers=2, multiprocessing_context="fork")
    assert last[-1].equal(expected)
    assert data[len(data) - 1][0].equal(expected)  # and it is still open here


def stop_after(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Let the writer fail after so many patches."""
    encode: Callable[..., bytes] = bigearthnet_writer.encode_patch
    left = iter(range(count))

    def counted(bands: dict[str, np.ndarray]) -> bytes:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return encode(bands)

    monkeypatch.setattr(bigearthnet_writer, "encode_patch", counted)


@pytest.fixture
def interrupted(bigearthnet_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose writing stopped after 2 blocks of 4 and 2 patches."""
    with monkeypatch.context() as patch:
        patch.setattr(bigearthnet_writer, "_BLOCK", 4)
        stop_after(patch, 10)
        with pytest.raises(KeyboardInterrupt):
            convert(bigearthnet_root, tmp_path / "saved")
    return tmp_path / "saved"


def test_an_interrupted_writing_is_not_taken_for_whole_and_resumes(
    interrupted: Path, bigearthnet_root: Path, lmdb_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [path.name for path in interrupted.iterdir()] == [".partial"]
    with pytest.raises(UserError, match="holds 0 LMDBs of patches"):
        open_bigearthnet(interrupted, lmdb=True)
    stop_after(monkeypatch, len(contents(lmdb_root)) - 8)  # the first 8 are not read again
    convert(bigearthnet_root, interrupted)
    assert contents(interrupted) == contents(lmdb_root)
    found, expected = (root / "metadata.parquet" for root in (interrupted, lmdb_root))
    assert found.read_bytes() == expected.read_bytes()


def test_what_cannot_be_written_is_refused(
    interrupted: Path,
    bigearthnet_root: Path,
    lmdb_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(message: str, save_dir: Path, *flags: str, workers: int = 0) -> None:
        with pytest.raises(UserError, match=message):
            convert(bigearthnet_root, save_dir, *flags, workers=workers)

    refuse("holds an LMDB already", lmdb_root)
    refuse("of other patches or --bands", interrupted, "--bands", *RGB_BANDS)
    with FileLock(interrupted / ".partial" / "writing.lock"):
        refuse("another process is writing into", interrupted)
    with monkeypatch.context() as patch:
        usage = shutil.disk_usage(tmp_path)
        patch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10**6))
        refuse(r"full has 0\.0 GB free, but 0\.1 GB are needed", tmp_path / "full")
    with monkeypatch.context() as patch:
        patch.setattr(bigearthnet_writer, "_SPARE_BYTES", -(10**7))
        refuse(r"cannot write the LMDB .*MDB_MAP_FULL.*: free space", tmp_path / "small")
    monkeypatch.setattr(bigearthnet_writer, "encode_patch", lambda bands: os._exit(9))
    refuse("was killed.*with fewer --num_workers", tmp_path / "killed", workers=1)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (save(planes(B04=np.zeros((120, 120), np.float32))), "B04 of patch .* holds F32 values"),
        (save(planes(B04=np.zeros((120, 120), np.int16))), "B04 of patch .* holds I16 values"),
        (save(planes(B04=np.zeros((60, 60), np.uint16))), "B04 of patch .* of 60 x 60 px"),
        (save(planes(B04=np.zeros(14_400, np.uint16))), "B04 of patch .* of 14400 px"),
        (save(planes(B04=None)), "patch in .* has no band B04"),
        (save(planes())[:-1], "patch in .* is missing or damaged"),
        (b"\xff" * 64, "patch in .* is missing or damaged"),
        (b"cos\nsystem\n(S'touch pwned'\ntR.", "patch in .* is missing or damaged"),
    ],
    ids=["float", "signed", "small", "flat", "absent", "cut", "random", "pickle"],
)
def test_a_value_that_does_not_fit_is_named(tmp_path: Path, value: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        one_patch(tmp_path / "strange", value).read("patch", RGB_BANDS)


def test_an_lmdb_that_replaces_another_is_read_and_a_missing_value_named(tmp_path: Path) -> None:
    for number in (7, 8):
        value = save(planes(B09=np.full((20, 20), number, np.uint16)))
        patches = one_patch(tmp_path / "same", value)
        assert [plane.tolist() for plane in patches.read("patch", ["B9"])] == [[[number] * 20] * 20]
        with pytest.raises(UserError, match=r"other in .* is missing"):
            patches.read("other", RGB_BANDS)
        shutil.rmtree(tmp_path / "same")


def test_a_damaged_lmdb_is_refused_before_it_is_read(lmdb_root: Path, tmp_path: Path) -> None:
    """Reading beyond the end of a mapped file ends the process."""
    shutil.copy(lmdb_root / "metadata.parquet", tmp_path)
    whole = (lmdb_root / "data.mdb").read_bytes()
    flipped = bytearray(whole)
    for page in range(2 * 4096, len(whole), 4096):  # behind the two that describe the file
        flipped[page + 10] ^= 0xFF  # its kind
    for content, message in {
        whole[:-4096]: r"data\.mdb is not a whole LMDB \(.* bytes instead of .*\): write it again",
        bytes(flipped): r"data\.mdb is not a whole LMDB \(another kind of page\): write it again",
        b"": "an incomplete page",
        b"no LMDB": "an incomplete page",
        b"\0" * 8192: "not an LMDB of version 0.9",
    }.items():
        (tmp_path / "data.mdb").unlink(missing_ok=True)
        (tmp_path / "data.mdb").write_bytes(content)
        with pytest.raises(UserError, match=message):
            open_bigearthnet(tmp_path, lmdb=True)


@pytest.mark.difference("ben-lmdb")
def test_an_lmdb_that_is_not_one_of_ours_is_refused_with_the_remedy(
    lmdb_root: Path, tmp_path: Path
) -> None:
    (tmp_path / "train.lmdb").mkdir()
    (tmp_path / "train.lmdb" / "data.mdb").write_bytes(b"pickles")
    with pytest.raises(UserError, match=r"pickles may run code: .* write one with `python data"):
        open_bigearthnet(tmp_path, lmdb=True)
    one_patch(tmp_path / "own", b"")
    with pytest.raises(UserError, match=r"no metadata\.parquet with splits and labels"):
        open_bigearthnet(tmp_path, lmdb=True)
    shutil.copy(lmdb_root / "metadata.parquet", tmp_path)
    count = len(contents(lmdb_root))
    with pytest.raises(UserError, match=f"^{count} of the {count} listed patches are not in"):
        open_bigearthnet(tmp_path, lmdb=True)
    with pytest.raises(UserError, match="it is an LMDB, use --lmdb"):
        open_bigearthnet(lmdb_root)


def test_fingerprint_changes_with_the_file_the_patches_and_the_bands(
    lmdb_root: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(lmdb_root, tmp_path / "copy"))
    stored = PatchLmdb(lmdb_root)
    assert stored.fingerprint(["a"], RGB_BANDS) == stored.fingerprint(["a"], RGB_BANDS)
    different = [stored.fingerprint(["a"], RGB_BANDS), stored.fingerprint(["b"], RGB_BANDS)]
    different += [
        stored.fingerprint(["a"], ALL_BANDS),
        PatchLmdb(copy).fingerprint(["a"], RGB_BANDS),
    ]
    assert len(set(different)) == 4

"""BigEarthNet's LMDB: written whole or not at all, read as rico-hdl writes it, never trusted."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load, save
from torch.utils.data import DataLoader

from datasets.bands import ALL_BANDS, RGB_BANDS
from datasets.bigearthnet import writer as bigearthnet_writer
from datasets.bigearthnet.facts import FILE_NAMES, SIDE_PX
from datasets.bigearthnet.index import open_bigearthnet
from datasets.bigearthnet.lmdb_store import PatchLmdb
from datasets.bigearthnet_dataset import main
from tests.references.bigearthnet_files import as_version_2, kept, labels_in
from tests.references.bigearthnet_pictures import pictures
from utils.errors import UserError


@pytest.fixture(scope="module")
def lmdb_root(bigearthnet_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All bands of the 50 patches. Read only."""
    save_dir = tmp_path_factory.mktemp("lmdb") / "saved"
    convert(bigearthnet_root, save_dir)
    return save_dir


def convert(root: Path, save_dir: Path, *flags: str, workers: int = 0) -> None:
    main(
        ["--data_dir", str(root), "--save_dir", str(save_dir), "--num_workers", str(workers)]
        + list(flags)
    )


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
    with (
        lmdb.open(str(lmdb_root), readonly=True, lock=False) as environment,
        environment.begin() as transaction,
    ):
        values = {key.decode(): load(value) for key, value in transaction.cursor()}
    names = [n for split in ("train", "val", "test") for n in kept(bigearthnet_root, split)]
    assert list(values) == sorted(names)
    folder = open_bigearthnet(bigearthnet_root).source
    for name in names[:3]:
        assert sorted(values[name]) == sorted(FILE_NAMES.values())
        for band, plane in zip(ALL_BANDS, folder.read(name, ALL_BANDS), strict=True):
            stored = values[name][FILE_NAMES[band]]
            assert stored.dtype == np.uint16
            assert np.array_equal(stored, plane)


def test_splits_and_labels_lie_beside_it_in_the_columns_of_version_2(
    bigearthnet_root: Path, lmdb_root: Path
) -> None:
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


def test_version_2_is_written_too(bigearthnet_root: Path, tmp_path: Path) -> None:
    root = as_version_2(bigearthnet_root, tmp_path / "v2")
    convert(root, tmp_path / "saved", "--bands", *RGB_BANDS)
    stored, folder = open_bigearthnet(tmp_path / "saved", lmdb=True), open_bigearthnet(root)
    assert stored.targets.equal(folder.targets)
    assert pictures(stored)[0][0].equal(pictures(folder)[0][0])
    with pytest.raises(UserError, match="has no band B08, only B02 B03 B04"):
        stored.source.read(stored.names[0], ["B8"])


def test_an_lmdb_of_rico_hdl_lies_below_the_metadata(
    bigearthnet_root: Path, tmp_path: Path
) -> None:
    root = as_version_2(bigearthnet_root, tmp_path / "v2")
    convert(root, tmp_path / "saved")
    (root / "Encoded-BigEarthNet").mkdir()
    (tmp_path / "saved" / "data.mdb").rename(root / "Encoded-BigEarthNet" / "data.mdb")
    assert open_bigearthnet(root, lmdb=True).names == open_bigearthnet(root).names


def test_processes_write_the_same_lmdb(
    bigearthnet_root: Path, lmdb_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bigearthnet_writer, "_BLOCK", 7)
    convert(bigearthnet_root, tmp_path / "saved", workers=2)
    index = open_bigearthnet(tmp_path / "saved", lmdb=True)
    one = open_bigearthnet(lmdb_root, lmdb=True)
    assert index.names == one.names
    for name in index.names:
        both = zip(
            index.source.read(name, ALL_BANDS), one.source.read(name, ALL_BANDS), strict=True
        )
        assert all(np.array_equal(*pair) for pair in both)


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


def test_half_written_is_not_taken_for_whole(interrupted: Path) -> None:
    assert [path.name for path in interrupted.iterdir()] == [".partial"]
    with pytest.raises(UserError, match="holds no LMDB"):
        open_bigearthnet(interrupted, lmdb=True)


def test_an_interrupted_writing_goes_on(
    interrupted: Path, bigearthnet_root: Path, lmdb_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = len(PatchLmdb(lmdb_root).names())
    stop_after(monkeypatch, count - 8)  # the first 8 are not read again
    convert(bigearthnet_root, interrupted)
    assert (interrupted / "metadata.parquet").read_bytes() == (
        lmdb_root / "metadata.parquet"
    ).read_bytes()
    assert PatchLmdb(interrupted).names() == PatchLmdb(lmdb_root).names()


def test_an_interrupted_writing_does_not_go_on_with_other_bands(
    interrupted: Path, bigearthnet_root: Path
) -> None:
    with pytest.raises(UserError, match="of other patches or --bands"):
        convert(bigearthnet_root, interrupted, "--bands", *RGB_BANDS)


def test_a_killed_process_is_told_with_the_remedy(
    bigearthnet_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bigearthnet_writer, "encode_patch", lambda bands: os._exit(9))
    with pytest.raises(UserError, match=r"was killed.*with fewer --num_workers"):
        convert(bigearthnet_root, tmp_path / "saved", workers=1)


def test_two_writers_do_not_share_a_folder(
    interrupted: Path, bigearthnet_root: Path, tmp_path: Path
) -> None:
    held = (
        "import fcntl, sys; file = open(sys.argv[1], 'w'); "
        "fcntl.flock(file, fcntl.LOCK_EX); print(flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", held, str(interrupted / ".partial" / "writing.lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(UserError, match="another process is writing into"):
            convert(bigearthnet_root, interrupted)
        other.communicate()


def test_a_finished_lmdb_is_not_written_over(bigearthnet_root: Path, lmdb_root: Path) -> None:
    with pytest.raises(UserError, match="holds an LMDB already"):
        convert(bigearthnet_root, lmdb_root)


def test_a_full_disk_is_told_before_anything_is_written(
    bigearthnet_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10**6))
    with pytest.raises(UserError, match=r"saved needs 0\.1 GB, but 0\.0 GB are free"):
        convert(bigearthnet_root, tmp_path / "saved")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (save(planes(B04=np.zeros((120, 120), np.float32))), "B04 of patch .* holds F32 values"),
        (save(planes(B04=np.zeros((120, 120), np.int16))), "B04 of patch .* holds I16 values"),
        (save(planes(B04=np.zeros((60, 60), np.uint16))), "B04 of patch .* has 60 x 60 px"),
        (save(planes(B04=np.zeros(14_400, np.uint16))), "B04 of patch .* has 14400 px"),
        (save(planes(B04=None)), "patch in .* has no band B04"),
        (save(planes())[:-1], "patch in .* is damaged"),
        (b"\xff" * 64, "patch in .* is damaged"),
        (b"cos\nsystem\n(S'touch pwned'\ntR.", "patch in .* is damaged"),
    ],
)
def test_a_value_that_does_not_fit_is_named(tmp_path: Path, value: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        one_patch(tmp_path / "strange", value).read("patch", RGB_BANDS)


def test_a_good_value_is_read_and_a_missing_one_named(tmp_path: Path) -> None:
    patches = one_patch(tmp_path / "strange", save(planes()))
    assert [plane.tolist() for plane in patches.read("patch", ["B9"])] == [[[7] * 20] * 20]
    with pytest.raises(UserError, match=r"other in .* is missing"):
        patches.read("other", RGB_BANDS)


def test_an_lmdb_that_replaces_another_is_read(tmp_path: Path) -> None:
    for number in (7, 8):
        value = save(planes(B09=np.full((20, 20), number, np.uint16)))
        [plane] = one_patch(tmp_path / "same", value).read("patch", ["B9"])
        assert (plane == number).all()
        shutil.rmtree(tmp_path / "same")


def test_a_truncated_lmdb_is_refused_before_it_is_read(lmdb_root: Path, tmp_path: Path) -> None:
    """Reading beyond the end of a mapped file ends the process."""
    copy = Path(shutil.copytree(lmdb_root, tmp_path / "copy"))
    os.truncate(copy / "data.mdb", (copy / "data.mdb").stat().st_size - 4096)
    with pytest.raises(UserError, match=r"data\.mdb is truncated"):
        open_bigearthnet(copy, lmdb=True)


def test_damaged_pages_are_named(lmdb_root: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(lmdb_root, tmp_path / "copy"))
    content = bytearray((copy / "data.mdb").read_bytes())
    for page in range(2 * 4096, len(content), 4096):  # behind the two that describe the file
        content[page + 10] ^= 0xFF  # its kind
    (copy / "data.mdb").write_bytes(content)
    with pytest.raises(UserError, match=r"(damaged|no readable) LMDB: write it again"):
        open_bigearthnet(copy, lmdb=True)


@pytest.mark.parametrize("content", [b"", b"no LMDB", b"\0" * 8192])
def test_what_is_no_lmdb_is_named(lmdb_root: Path, tmp_path: Path, content: bytes) -> None:
    shutil.copy(lmdb_root / "metadata.parquet", tmp_path)
    (tmp_path / "data.mdb").write_bytes(content)
    with pytest.raises(UserError, match="holds no readable LMDB"):
        open_bigearthnet(tmp_path, lmdb=True)


def test_patches_that_are_listed_but_not_in_it_are_counted(lmdb_root: Path, tmp_path: Path) -> None:
    one_patch(tmp_path, b"")
    shutil.copy(lmdb_root / "metadata.parquet", tmp_path)
    count = len(PatchLmdb(lmdb_root).names())
    with pytest.raises(UserError, match=f"^{count} of the {count} listed patches are not in"):
        open_bigearthnet(tmp_path, lmdb=True)


@pytest.mark.difference("ben-lmdb")
def test_the_originals_pickles_are_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "train.lmdb").mkdir()
    (tmp_path / "train.lmdb" / "data.mdb").write_bytes(b"pickles")
    with pytest.raises(UserError, match=r"pickles may run code: write one with `python datasets"):
        open_bigearthnet(tmp_path, lmdb=True)


def test_an_lmdb_without_metadata_or_its_flag_is_told(lmdb_root: Path, tmp_path: Path) -> None:
    shutil.copy(lmdb_root / "data.mdb", tmp_path)
    with pytest.raises(UserError, match=r"no metadata\.parquet with splits and labels"):
        open_bigearthnet(tmp_path, lmdb=True)
    with pytest.raises(UserError, match="it is an LMDB, use --lmdb"):
        open_bigearthnet(lmdb_root)


def test_fingerprint_changes_with_the_file_the_patches_and_the_bands(
    lmdb_root: Path, tmp_path: Path
) -> None:
    before = PatchLmdb(lmdb_root).fingerprint(["a"], RGB_BANDS)
    assert PatchLmdb(lmdb_root).fingerprint(["a"], RGB_BANDS) == before
    assert PatchLmdb(lmdb_root).fingerprint(["b"], RGB_BANDS) != before
    assert PatchLmdb(lmdb_root).fingerprint(["a"], ALL_BANDS) != before
    copy = Path(shutil.copytree(lmdb_root, tmp_path / "copy"))
    assert PatchLmdb(copy).fingerprint(["a"], RGB_BANDS) != before

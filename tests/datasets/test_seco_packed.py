"""The command that packs and verifies a store: what it refuses."""

from pathlib import Path

import pytest

from datasets import seco_packed
from datasets.bands import RGB_BANDS
from tests.references.seco_files import pack
from utils.errors import UserError


def test_verify_finds_a_flipped_byte(seco_root: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    pack(seco_root, store, "--bands", *RGB_BANDS, "B8")
    seco_packed.main(["--verify", "--save_path", str(store)])
    path = store / "other-00000.u8"
    data = bytearray(path.read_bytes())
    data[1234] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"other-00000\.u8 differs from the hash .* copy the store"):
        seco_packed.main(["--verify", "--save_path", str(store)])


def test_wrong_flags_are_refused(seco_copy: Path, tmp_path: Path) -> None:
    for target in (seco_copy, seco_copy / "inside"):
        with pytest.raises(UserError, match="is in --data_dir"):
            pack(seco_copy, target)
    with pytest.raises(UserError, match="--data_dir is missing"):
        seco_packed.main(["--save_path", str(tmp_path / "store")])
    with pytest.raises(UserError, match="unknown band B99"):
        pack(seco_copy, tmp_path / "store", "--bands", "B99")
    pack(seco_copy, tmp_path / "store")
    with pytest.raises(UserError, match="is packed already"):
        pack(tmp_path / "store", tmp_path / "again")
    with pytest.raises(UserError, match="nowhere does not exist"):
        seco_packed.main(["--verify", "--save_path", str(tmp_path / "nowhere")])
    with pytest.raises(UserError, match=r"s3://bucket/prefix is not a local folder"):
        pack(seco_copy, Path("s3://bucket/prefix"))


def test_broken_store_is_not_taken_for_complete(seco_root: Path, tmp_path: Path) -> None:
    pack(seco_root, tmp_path / "store")
    (tmp_path / "store" / "rgb-00000.u8").unlink()
    with pytest.raises(UserError, match=r"rgb-00000\.u8 is missing: .* or delete it"):
        pack(seco_root, tmp_path / "store")
    with pytest.raises(UserError, match=r"rgb-00000\.u8 is missing: .* or delete it"):
        seco_packed.main(["--verify", "--save_path", str(tmp_path / "store")])

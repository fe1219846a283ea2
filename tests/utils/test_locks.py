"""Lock files of processes that share a folder."""

from pathlib import Path

import pytest

from utils.errors import UserError
from utils.locks import locked, sole_writer


def test_a_second_writer_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with (
        sole_writer(path, "busy"),
        pytest.raises(UserError, match=r"^busy$"),
        sole_writer(path, "busy"),
    ):
        pass
    assert not path.exists()
    path.touch()  # left by a process that was killed
    with locked(path):
        assert path.exists()
    assert not path.exists()


def test_a_lock_that_is_a_link_leaves_its_target_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    (tmp_path / "lock").symlink_to("mine")
    with (
        pytest.raises(UserError, match=r"cannot lock .*lock \(.*the file must not be a link"),
        sole_writer(tmp_path / "lock", "busy"),
    ):
        pass
    assert (tmp_path / "mine").read_text() == "precious"

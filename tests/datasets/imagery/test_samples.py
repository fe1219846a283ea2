"""Separate patches, some of which cannot be read."""

from collections.abc import Callable
from pathlib import Path

import pytest

from datasets.imagery.rasters import RasterFlags
from datasets.imagery_dataset import open_imagery
from tests.references.seco_files import zip_folder
from utils.errors import UserError
from utils.input_spec import SECO_SPEC

FLAGS = RasterFlags(patch_size=48, stride=48)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


@pytest.mark.parametrize("damage", [Path.unlink, cut])
@pytest.mark.parametrize("zipped", [False, True])
def test_a_patch_that_cannot_be_read_is_left_out_although_it_shows_no_place(
    seco_copy: Path, tmp_path: Path, damage: Callable[[Path], None], zipped: bool
) -> None:
    damage(sorted(seco_copy.glob("*/*/B4.tif"))[0])
    data_dir = zip_folder(seco_copy, tmp_path / "s.zip") if zipped else seco_copy
    patches = open_imagery(data_dir, SECO_SPEC, FLAGS, on_bad_patch="skip")
    assert patches.is_placed
    assert sum(len(patches.read(block).ids) for block in range(len(patches))) == 23
    with pytest.raises(UserError, match=r"B4\.tif is"):
        open_imagery(data_dir, SECO_SPEC, FLAGS).read(0)

"""Pictures of places: beside the collection, in its own colours."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.collect.writer import convert, preview_folder, stretch
from tests.references.place_files import SETTINGS, images, write, writer_in
from utils.errors import UserError


@pytest.mark.difference("collect-previews")
def test_previews_lie_beside_the_collection_with_the_oldest_date_first(tmp_path: Path) -> None:
    save_path = tmp_path / "collection"
    write(writer_in(save_path, replace(SETTINGS, preview=True)))

    assert preview_folder(save_path) == tmp_path / "collection_previews"
    with Image.open(tmp_path / "collection_previews" / "000007.png") as picture:
        strip = np.asarray(picture)
    assert strip.shape == (12, 24, 3)
    for date, seed in enumerate((1, 0)):  # the newest window is written first
        bands = [convert(images(seed)[band], "uint8") for band in ("B4", "B3", "B2")]
        part = strip[:, 12 * date : 12 * date + 12].transpose(2, 0, 1)
        np.testing.assert_array_equal(part, stretch(np.stack(bands)))
    assert {path.name for path in save_path.iterdir() if not path.name.startswith(".")} == {
        "000007"
    }


def test_a_preview_is_stretched_by_the_published_quantiles() -> None:
    # Red 0 .. 129, green 2 .. 103, blue 3 .. 88: the low end is black, the high one white.
    image = np.array([[[0, 129, 200]], [[2, 103, 0]], [[3, 88, 45]]], dtype=np.uint8)
    blue = int((45 - 3) / (88 - 3) * 255)
    assert stretch(image).tolist() == [[[0, 255, 255]], [[0, 255, 0]], [[0, 255, blue]]]


def test_pictures_that_cannot_be_written_keep_their_place_from_appearing(tmp_path: Path) -> None:
    save_path = tmp_path / "collection"
    (tmp_path / "collection_previews").write_text("a file")

    with pytest.raises(UserError, match="collection_previews"):
        write(writer_in(save_path, replace(SETTINGS, preview=True)))
    assert not (save_path / "000007").exists()

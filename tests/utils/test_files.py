"""Which files count as hidden."""

import pytest

from utils.files import is_hidden


@pytest.mark.parametrize(
    ("name", "hidden"),
    [
        (".DS_Store", True),
        ("._B04.tif", True),
        (".B04.tif", True),
        ("paris/imgs_1/._B04.tif", True),
        (".git/B04.tif", True),
        ("a/.ipynb_checkpoints/B04.tif", True),
        ("__MACOSX", True),
        ("__MACOSX/a/B04.tif", True),
        ("a/__MACOSX/B04.tif", True),
        ("a/@eaDir/1.jpg/SYNOPHOTO_THUMB_M.jpg", True),
        ("./._B04.tif", True),
        ("B04.tif", False),
        ("./paris/B04.tif", False),
        ("a.b/c.d.tif", False),
        ("a/MACOSX/B04.tif", False),
    ],
)
def test_hidden_files_are_recognised(name: str, hidden: bool) -> None:
    assert is_hidden(name) is hidden

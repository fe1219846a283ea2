"""The hint at a packed store: measured, and a command that works."""

import re
import shlex
from pathlib import Path

import numpy as np

from datasets import packing_hint, seco_packed
from datasets.bands import RGB_BANDS
from datasets.open_patches import open_patches
from datasets.patch_dataset import PatchDataset


def test_command_of_the_hint_packs_what_is_read(seco_root: Path, tmp_path: Path) -> None:
    (tmp_path / "my data").symlink_to(seco_root)
    source = open_patches(tmp_path / "my data", ["B2", "B4"])
    hint = packing_hint.packing_hint(PatchDataset(source), tmp_path / "my data")
    assert hint is not None
    script, *flags = shlex.split(hint.split("python ")[1])
    assert script == "datasets/seco_packed.py"
    seco_packed.main([*flags, "--num_workers", "0"])
    store = open_patches(tmp_path / "my data_packed", ["B2", "B4"])
    np.testing.assert_array_equal(store.read(5), source.read(5))
    assert packing_hint.packing_hint(PatchDataset(store), store.root) is None


def test_ratio_is_that_of_the_times(seco_root: Path) -> None:
    dataset = PatchDataset(open_patches(seco_root, RGB_BANDS))
    hint = packing_hint.packing_hint(dataset, seco_root)
    assert hint is not None
    found = re.search(r"takes ([\d.]+) ms of a core, .* about ([\d.e-]+) ms, (\d+) times", hint)
    assert found is not None
    reading, copying, ratio = map(float, found.groups())
    assert reading > copying > 0
    assert abs(ratio / (reading / copying) - 1) < 0.1  # both are rounded


def test_no_hint_where_nothing_can_be_measured(seco_root: Path) -> None:
    class Broken(PatchDataset):
        def __getitem__(self, key: tuple[int, int]) -> dict[str, object]:
            raise packing_hint.BadPatchError("a", "is missing")

    assert packing_hint.packing_hint(Broken(open_patches(seco_root, RGB_BANDS)), seco_root) is None

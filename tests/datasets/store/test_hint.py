"""The hint at a packed store: a command that works, or the store that is there."""

import shlex
from pathlib import Path

import numpy as np

from datasets import seco_packed
from datasets.store.hint import packing_hint
from datasets.store.open import open_patches


def test_command_of_the_hint_packs_what_is_read(seco_root: Path, tmp_path: Path) -> None:
    data_dir = tmp_path / "my data"
    data_dir.symlink_to(seco_root)
    source = open_patches(data_dir, ["B2", "B4"])
    hint = packing_hint(source, data_dir)
    assert hint is not None
    assert " times" not in hint  # a factor that was measured in four samples said 109, 222, 952
    script, *flags = shlex.split(hint.split("python ")[1])
    assert script == "datasets/seco_packed.py"
    seco_packed.main([*flags, "--num_workers", "0"])
    store = open_patches(tmp_path / "my data_packed", ["B2", "B4"])
    np.testing.assert_array_equal(store.read(5), source.read(5))
    assert packing_hint(store, tmp_path / "my data_packed") is None
    hint = packing_hint(source, data_dir)
    assert hint is not None
    assert hint.startswith(f"{tmp_path / 'my data_packed'} is a packed store")
    assert "seco_packed.py" not in hint

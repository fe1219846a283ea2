"""Streaming from LitData chunks against the source that they were written from."""

import itertools
import json
import os
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from litdata.streaming.writer import BinaryWriter
from pytorch_lightning import Trainer

from datasets.seco.bad_patches import BadPatchError
from datasets.store.litdata import INDEX_NAME, MANIFEST_NAME, StreamedPlaces, is_litdata
from datasets.store.litdata_writer import write_litdata
from main_pretrain import main as pretrain
from tests.references.numbered_patches import CHUNK_BYTES, Numbered, assert_samples_of, indices
from tests.references.recorded_batches import CALM, Recorder
from tests.references.stream_process import (
    BATCH_SIZE,
    MODES,
    assert_equal,
    make_loader,
)
from utils.data import InfiniteDataLoader, batches_done, epoch_of
from utils.errors import UserError, sentence_of


@pytest.fixture
def copy(root: Path, tmp_path: Path) -> Path:
    """A set to damage."""
    return Path(shutil.copytree(root, tmp_path / "copy"))


@pytest.mark.parametrize(("mode", "num_workers"), [*((mode, 0) for mode in MODES), ("seco", 2)])
@pytest.mark.difference("stream")
def test_samples_are_those_of_the_source_in_full_batches(
    root: Path, mode: str, num_workers: int
) -> None:
    loader = make_loader(root, mode, num_workers)
    batches = list(loader)
    num_samples = 199 if mode == "moco" else 50
    assert len(batches) == len(loader) == num_samples // BATCH_SIZE
    assert all(len(batch["index"]) == BATCH_SIZE for batch in batches)
    assert all(batch["epoch"].tolist() == [2] * BATCH_SIZE for batch in batches)
    assert len(set(indices(batches))) == num_samples // BATCH_SIZE * BATCH_SIZE  # none twice
    assert set(indices(batches)) <= set(range(num_samples))
    assert_samples_of(Numbered(), batches, mode)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_resumed_epoch_continues_with_the_next_batch(root: Path, num_workers: int) -> None:
    whole = list(make_loader(root, num_workers=num_workers))
    for count in (1, 5, 11):
        rest = make_loader(root, num_workers=2 - num_workers, done=count * BATCH_SIZE)
        assert_equal(list(rest), whole[count:])


@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_processes_take_equally_many_batches_and_nothing_twice(root: Path, world_size: int) -> None:
    loaders = [make_loader(root, rank=r, world_size=world_size) for r in range(world_size)]
    shares = [indices(list(loader)) for loader in loaders]
    assert {len(share) for share in shares} == {50 // world_size // BATCH_SIZE * BATCH_SIZE}
    assert set(Counter(index for share in shares for index in share).values()) == {1}


@pytest.mark.parametrize("mode", ["seco", "moco"])
def test_orders_are_repeatable_and_finish_a_chunk_before_the_next_one_begins(
    root: Path, mode: str
) -> None:
    source = StreamedPlaces(root)
    bounds = source.first_samples(mode == "moco")
    order = indices(list(make_loader(root, mode, batch_size=1)))
    chunks = (np.searchsorted(bounds, order, side="right") - 1).tolist()
    runs = [chunk for chunk, _ in itertools.groupby(chunks)]
    assert len(runs) == len(set(runs)) == len(bounds) - 1 > 5
    assert runs != sorted(runs)
    assert order != indices(list(make_loader(root, mode, epoch=1, batch_size=1)))
    assert order == indices(list(make_loader(root, mode, batch_size=1)))


class Notes(Recorder):
    """Notes the samples of its steps, and saves a checkpoint after one of them."""

    def __init__(self, root: Path, save_after: int, path: Path) -> None:
        super().__init__()
        self.root, self.save_after, self.path = root, save_after, path
        self.seen: list[tuple[int, list[int]]] = []

    def train_dataloader(self) -> InfiniteDataLoader:
        loader = make_loader(self.root)
        order: Any = loader.sampler
        order.epoch = lambda: epoch_of(self.trainer)
        order.done = lambda: batches_done(self.trainer) * BATCH_SIZE
        return loader

    def training_step(self, batch: Any) -> torch.Tensor:
        self.seen.append((int(batch["epoch"][0]), batch["index"].tolist()))
        return self.weight.sum()

    def on_train_batch_end(self, *args: Any) -> None:
        if len(self.seen) == self.save_after:
            self.trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("save_after", [12, 17])
def test_lightning_resumes_within_an_epoch(root: Path, tmp_path: Path, save_after: int) -> None:
    def fit(checkpoint: Path | None) -> list[tuple[int, list[int]]]:
        model = Notes(root, save_after, tmp_path / "new.ckpt")
        trainer = Trainer(**CALM, max_epochs=2, use_distributed_sampler=False)
        trainer.fit(model, ckpt_path=checkpoint, weights_only=True)
        return model.seen

    whole = fit(None)
    assert len(whole) == 24
    shutil.move(tmp_path / "new.ckpt", tmp_path / "saved.ckpt")
    assert fit(tmp_path / "saved.ckpt") == whole[save_after:]


@pytest.mark.parametrize("mode", MODES)
def test_bad_patches_are_skipped_as_by_the_source(tmp_path: Path, mode: str) -> None:
    """Two in one place, one in the next, and one in the last place."""
    bad = (4, 5, 8, 1198)
    source = Numbered(300, bad)
    manifest = write_litdata(source, tmp_path / "set", chunk_bytes=CHUNK_BYTES)
    assert manifest.bad == {patch: (f"patch/{patch}", "is torn") for patch in bad}
    batches = [
        batch
        for epoch in range(3)
        for batch in make_loader(tmp_path / "set", mode, 0, epoch, 1, "skip")
    ]
    assert len(batches) == 3 * (1200 if mode == "moco" else 300)
    assert {name for batch in batches for name in batch["bad"]} == {f"patch/{b}" for b in bad}
    assert_samples_of(source, batches, mode, on_bad_patch="skip")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_bad_patch_stops_a_run_that_does_not_skip(tmp_path: Path, num_workers: int) -> None:
    write_litdata(Numbered(50, bad=(8,)), tmp_path / "set")
    with pytest.raises(UserError) as caught:
        list(make_loader(tmp_path / "set", "moco", num_workers))
    assert sentence_of(caught.value) == str(BadPatchError("patch/8", "is torn"))


@pytest.mark.parametrize("use", [lambda path: write_litdata(Numbered(), path), StreamedPlaces])
def test_a_missing_litdata_is_named_with_its_remedy(
    use: Any, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "litdata", None)
    with pytest.raises(UserError, match="need LitData: pip install litdata"):
        use(tmp_path / "new" if use is not StreamedPlaces else root)
    assert not list(tmp_path.iterdir())


class Bomb:
    """Leaves a file where its pickle is loaded."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


def test_a_set_of_pickles_is_refused_before_anything_is_loaded(root: Path, tmp_path: Path) -> None:
    folder, mark = tmp_path / "set", tmp_path / "exploded"
    writer = BinaryWriter(str(folder), chunk_bytes=CHUNK_BYTES)
    for place in range(50):
        writer.add_item(place, Bomb(str(mark)))
    writer.done()
    writer.merge()
    shutil.copy(root / MANIFEST_NAME, folder)
    assert json.loads((folder / INDEX_NAME).read_text())["config"]["data_format"] == ["pickle"]
    with pytest.raises(UserError, match=r"items of the format \['pickle'\] could run code"):
        StreamedPlaces(folder)
    assert not mark.exists()


def test_an_index_that_lies_about_its_items_runs_nothing(copy: Path, tmp_path: Path) -> None:
    """The chunks hold pickles, which are taken for pixels, and found to be no patches."""
    mark = tmp_path / "exploded"
    writer = BinaryWriter(str(tmp_path / "pickles"), chunk_size=50)
    for place in range(50):
        writer.add_item(place, Bomb(str(mark)))
    writer.done()
    writer.merge()
    index = json.loads((tmp_path / "pickles" / INDEX_NAME).read_text())
    honest = json.loads((copy / INDEX_NAME).read_text())
    index["config"] = honest["config"]
    (copy / INDEX_NAME).write_text(json.dumps(index))
    for path in (tmp_path / "pickles").glob("*.bin"):
        shutil.copy(path, copy)
    with pytest.raises(UserError, match="is damaged"):
        next(iter(make_loader(copy)))
    assert not mark.exists()


@pytest.mark.parametrize(
    ("name", "part", "value"),
    [
        *((INDEX_NAME, "chunks.0.filename", value) for value in ("../../chunk-0-0.bin", 1)),
        (INDEX_NAME, "chunks.0.chunk_size", 10**6),
        (INDEX_NAME, "chunks.0.chunk_bytes", -1),
        (INDEX_NAME, "chunks", {}),
        (INDEX_NAME, "config.data_spec", '[1, {"children_spec": [1]}]'),
        (INDEX_NAME, "config.compression", "zstd"),
        (INDEX_NAME, "config.encryption", {"algorithm": "fernet"}),
        (INDEX_NAME, "config.item_loader", "PyTreeLoader"),
        (INDEX_NAME, "config", []),
        (MANIFEST_NAME, "format", "packed patches"),
        (MANIFEST_NAME, "format_version", 2),
        *((MANIFEST_NAME, "dates_per_place", value) for value in ([], [3, 0], [2**70], "many")),
        *((MANIFEST_NAME, "patch_shape", value) for value in ([3, 3, 7], [2, 0, 7])),
        (MANIFEST_NAME, "input_spec", {}),
        (MANIFEST_NAME, "input_spec.std", ["0.1", "0.2"]),
        *((MANIFEST_NAME, "bad_patches", value) for value in ([[199, "a", "b"]], [1])),
    ],
)
def test_a_damaged_index_or_manifest_is_refused(
    copy: Path, name: str, part: str, value: object
) -> None:
    edit(copy / name, part, value)
    with pytest.raises(UserError, match=r"places\.json or index\.json is damaged \(.*\): write"):
        StreamedPlaces(copy)


@pytest.mark.parametrize("text", ["", "null", "[]", "{", "[" * 100_000, "\xff"])
@pytest.mark.parametrize("name", [INDEX_NAME, MANIFEST_NAME])
def test_other_json_is_refused(copy: Path, name: str, text: str) -> None:
    (copy / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=r"places\.json or index\.json is damaged"):
        StreamedPlaces(copy)


def edit(path: Path, part: str, value: object) -> None:
    """Replace the part of a JSON file under keys that are joined by dots."""
    content = json.loads(path.read_text())
    *keys, last = part.split(".")
    target = content
    for key in keys:
        target = target[int(key) if key.isdigit() else key]
    target[last] = value
    path.write_text(json.dumps(content))


def test_a_folder_without_manifest_or_with_other_bands_is_refused(copy: Path) -> None:
    with pytest.raises(UserError, match="holds the bands B4 B8, not B8 B4: change --bands"):
        StreamedPlaces(copy).check_bands(["B8", "B4"])
    (copy / MANIFEST_NAME).unlink()
    with pytest.raises(UserError, match=r"copy/places\.json cannot be read .*: write a set there"):
        StreamedPlaces(copy)


@pytest.mark.parametrize("damage", ["missing", "short", "scrambled"])
def test_a_damaged_chunk_is_named(copy: Path, damage: str) -> None:
    chunk = copy / "chunk-0-3.bin"
    if damage == "missing":
        chunk.unlink()
    elif damage == "scrambled":
        chunk.write_bytes(b"\x01" * chunk.stat().st_size)
    else:
        os.truncate(chunk, 100)
    named = {"missing": "/chunk-0-3.bin is missing", "short": "/chunk-0-3.bin has 100 bytes inst"}
    with pytest.raises(UserError, match=rf"{copy}{named.get(damage, '.* for place')}"):
        list(make_loader(copy))


def test_addresses_and_folders_of_chunks_are_recognised(root: Path, tmp_path: Path) -> None:
    assert is_litdata(root)
    assert is_litdata(Path("s3://bucket/prefix"))
    assert not is_litdata(tmp_path)
    assert not is_litdata(tmp_path / "missing")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--bands", "B8"], "holds the bands B4 B8, not B8: change --bands"),
        (["--image_list", __file__], "--image_list is for pictures, but .* holds LitData chunks"),
        (["--cache", "ram"], "cache ram is for packed stores"),
    ],
)
def test_flags_that_do_not_fit_a_stream_are_refused(
    root: Path, flags: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        pretrain(["--data_dir", str(root), "--gpus", "0", "--bands", "B4", "B8", *flags])

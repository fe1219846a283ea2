"""Streaming from LitData chunks against the source that they were written from."""

import itertools
import json
import multiprocessing
import os
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from filelock import FileLock
from litdata.streaming.writer import BinaryWriter
from moto.server import ThreadedMotoServer
from pytorch_lightning import Trainer

from datasets.seco.bad_patches import BadPatchError
from datasets.seco.samples import PatchDataset
from datasets.seco_packed import main as pack
from datasets.store.litdata import INDEX_NAME, MANIFEST_NAME, StreamedPlaces, is_litdata
from datasets.store.litdata_writer import write_litdata
from datasets.store.open import open_patches
from main_pretrain import main as pretrain
from tests.references.recorded_batches import CALM, Recorder
from tests.references.stream_process import (
    BATCH_SIZE,
    MODES,
    SEED,
    WORLD,
    Batches,
    assert_equal,
    make_loader,
    work,
)
from utils.data import InfiniteDataLoader, batches_done, epoch_of
from utils.errors import UserError, sentence_of
from utils.input_spec import InputSpec

CHUNK_BYTES = 1000  # about six places
BUCKET = "seco-test"


class Numbered:
    """Patches that hold their own number, of places with three to five dates."""

    root = Path("numbers")
    input_spec = InputSpec(("B4", "B8"), (0.0, 1.0), (90.0, 99.0), (0.4, 0.5), (0.2, 0.3))
    patch_shape = (2, 3, 7)

    def __init__(self, num_places: int = 50, bad: tuple[int, ...] = ()) -> None:
        counts = 3 + np.arange(num_places) % 3
        self.starts = np.concatenate([[0], counts.cumsum()])
        self.bad = bad

    def name(self, patch: int) -> str:
        return f"patch/{patch}"

    def read(self, patch: int, out: np.ndarray | None = None) -> np.ndarray:
        if patch in self.bad:
            raise BadPatchError(self.name(patch), "is torn")
        pixels = np.empty(self.patch_shape, np.uint8) if out is None else out
        pixels[:] = np.random.default_rng(patch).integers(0, 256, self.patch_shape, np.uint8)
        pixels[0, 0, :2] = divmod(patch, 256)
        return pixels


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of 50 places, 199 patches; read only."""
    root = tmp_path_factory.mktemp("litdata") / "set"
    write_litdata(Numbered(), root, chunk_bytes=CHUNK_BYTES)
    return root


@pytest.fixture
def copy(root: Path, tmp_path: Path) -> Path:
    """A set to damage."""
    return Path(shutil.copytree(root, tmp_path / "copy"))


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    """A client of an S3 server on loopback, with one empty bucket."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", "http://{}:{}".format(*server.get_host_and_port()))
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        client = boto3.client("s3")
        client.create_bucket(Bucket=BUCKET)
        yield client
    server.stop()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of the chunks that are downloaded."""
    monkeypatch.setenv("LITDATA_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def bucket(s3: Any, root: Path) -> str:
    """The address of the same set in the bucket."""
    upload(s3, root, "train")
    return f"s3://{BUCKET}/train"


def upload(s3: Any, folder: Path, prefix: str) -> None:
    for path in folder.iterdir():
        s3.upload_file(str(path), BUCKET, f"{prefix}/{path.name}")


def indices(batches: Batches) -> list[int]:
    return [index for batch in batches for index in batch["index"].tolist()]


def assert_samples_of(source: Numbered, batches: Batches, mode: str, **options: Any) -> None:
    """Compare each sample with what the source itself gives for its (epoch, index)."""
    dataset = PatchDataset(source, seed=SEED, **MODES[mode], **options)
    for batch in batches:
        assert batch["patches"].dtype == torch.uint8
        keys = zip(batch["epoch"].tolist(), batch["index"].tolist(), strict=True)
        expected = [dataset[key] for key in keys]
        assert batch["bad"] == [name for sample in expected for name in sample["bad"]]
        torch.testing.assert_close(
            batch["patches"], torch.stack([sample["patches"] for sample in expected])
        )


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


@pytest.mark.parametrize("save_after", [5, 12, 17])
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


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_bucket_streams_what_the_folder_does(
    root: Path, bucket: str, cache: Path, num_workers: int
) -> None:
    batches = list(make_loader(bucket, num_workers=num_workers))
    assert_equal(batches, list(make_loader(root, num_workers=num_workers)))
    assert list(cache.rglob("*.bin"))


@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_two_processes_share_a_bucket_and_take_each_sample_once(
    bucket: str, cache: Path, tmp_path: Path, num_workers: int
) -> None:
    arguments = (bucket, str(tmp_path), num_workers)
    mp.start_processes(work, arguments, nprocs=WORLD, start_method="fork")
    batches = [batch for rank in range(WORLD) for batch in torch.load(tmp_path / f"{rank}.pt")]
    assert set(Counter(indices(batches)).values()) == {1}
    assert len(indices(batches)) == 48  # of 50: full batches only, equally many in each process
    assert_samples_of(Numbered(), batches, "seco")


def test_a_bucket_that_cannot_be_read_says_what_to_check(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for nothing in (f"s3://{BUCKET}/nothing", "s3://nobody/nothing"):
        with pytest.raises(UserError, match=rf"{nothing}/index.json cannot be read \(.*404"):
            StreamedPlaces(Path(nothing))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")  # nobody answers
    with pytest.raises(UserError, match=r"Could not connect .* the credentials, AWS_ENDPOINT_URL"):
        StreamedPlaces(Path(bucket))
    with pytest.raises(UserError, match="https://host/set is not streamed: --data_dir takes s3://"):
        StreamedPlaces(Path("https://host/set"))
    # As if it were not installed, nor imported by an earlier test.
    monkeypatch.setitem(sys.modules, "google.cloud.storage", None)
    monkeypatch.delattr(sys.modules.get("google.cloud"), "storage", raising=False)
    with pytest.raises(UserError, match=r"gs://bucket/set/.* that google-cloud-storage is install"):
        StreamedPlaces(Path("gs://bucket/set"))


@pytest.mark.usefixtures("cache")
def test_a_chunk_that_a_bucket_lacks_is_named(
    s3: Any, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("litdata.streaming.item_loader._MAX_WAIT_TIME", 1)
    (copy / "chunk-0-3.bin").unlink()
    upload(s3, copy, "lacking")
    source = StreamedPlaces(Path(f"s3://{BUCKET}/lacking"))
    with pytest.raises(UserError, match=r"chunk-0-3\.bin cannot be read .* check the connection"):
        source.read(int(source.first_samples(every_date=True)[3]))


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


def test_writing_leaves_alone_what_is_there(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="set exists: remove it"):
        write_litdata(Numbered(), root)
    busy = FileLock(tmp_path / "new.lock")
    with busy, pytest.raises(UserError, match=r"another process writes .*new: wait for it"):
        write_litdata(Numbered(), tmp_path / "new")
    (tmp_path / ".new.1.partial").mkdir()  # of a process that was killed
    write_litdata(Numbered(), tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_writing_needs_room_and_few_bad_patches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for num_workers in (0, 1):
        with pytest.raises(UserError, match=r"^more than 1% of 199 samples are bad"):
            write_litdata(Numbered(50, bad=(1, 30, 60)), tmp_path / "set", num_workers)
    usage = shutil.disk_usage(tmp_path)._replace(free=199 * 42 - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match=r"0\.0 GB free, but 0\.0 GB are needed"):
        write_litdata(Numbered(), tmp_path / "set")
    assert not list(tmp_path.iterdir())


def test_workers_write_the_same_bytes_and_show_progress(
    root: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_litdata(Numbered(), tmp_path / "set", 2, chunk_bytes=CHUNK_BYTES)
    assert "50/50" in capfd.readouterr().err
    files = {path.name: path.read_bytes() for path in root.iterdir()}
    again = {path.name: path.read_bytes() for path in (tmp_path / "set").iterdir()}
    for content in (files, again):
        index = json.loads(content.pop(INDEX_NAME))
        content[INDEX_NAME] = json.dumps(index["chunks"]).encode()
    assert again == files


class Deadly(Numbered):
    """Ends the process that reads a patch, unless it is that of the test."""

    parent = os.getpid()

    def read(self, patch: int, out: np.ndarray | None = None) -> np.ndarray:
        if patch == 100 and os.getpid() != self.parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(patch, out)


def test_a_killed_worker_ends_the_writing_and_leaves_no_process(tmp_path: Path) -> None:
    before = set(multiprocessing.active_children())  # of loaders that are not yet collected
    with pytest.raises(UserError, match="a worker process was killed"):
        write_litdata(Deadly(), tmp_path / "set", 2)
    assert set(multiprocessing.active_children()) <= before
    assert not list(tmp_path.iterdir())


def test_addresses_and_folders_of_chunks_are_recognised(root: Path, tmp_path: Path) -> None:
    assert is_litdata(root)
    assert is_litdata(Path("s3://bucket/prefix"))
    assert not is_litdata(tmp_path)
    assert not is_litdata(tmp_path / "missing")


def test_the_command_writes_what_the_folder_holds(
    seco_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "set"
    flags = ["--bands", "B4", "B3", "B8", "--num_workers", "0", "--format", "litdata"]
    shutil.copytree(seco_root, tmp_path / "source")
    quantiles = {"quantiles": {"B8": [0, 100]}}
    (tmp_path / "source" / "quantiles.json").write_text(json.dumps(quantiles))
    pack(["--data_dir", str(tmp_path / "source"), "--save_path", str(folder), *flags])
    out = capsys.readouterr().out
    assert "24 patches of 6 places, B4 B3 B8, 48 x 48 px, 0.00 GB" in out
    places = open_patches(folder, ["B4", "B3", "B8"])
    source = open_patches(tmp_path / "source", ["B4", "B3", "B8"])
    assert places.input_spec == source.input_spec
    for patch in range(24):
        np.testing.assert_array_equal(places.read(patch), source.read(patch))


@pytest.fixture
def flags(s3: Any, seco_root: Path, tmp_path: Path, cache: Path) -> Callable[..., list[str]]:
    """Flags of a small training from a bucket, which has three batches."""
    pack(["--data_dir", str(seco_root), "--save_path", str(tmp_path / "set"), "--format=litdata"])
    upload(s3, tmp_path / "set", "run")

    def make(log_dir: str, max_epochs: int) -> list[str]:
        texts = f"--data_dir s3://{BUCKET}/run --log_dir {tmp_path / log_dir} --batch_size 2"
        texts += f" --max_epochs {max_epochs} --num_negatives 8 --crop_size 32 --num_workers 0"
        return [*texts.split(), "--base_encoder", "resnet18_slim", "--gpus", "0"]

    return make


def test_a_training_reads_from_a_bucket(flags: Callable[..., list[str]], tmp_path: Path) -> None:
    trainer = pretrain([*flags("logs", max_epochs=1), "--debug"])
    assert trainer.global_step == 3
    assert list((tmp_path / "cache").rglob("chunk-*.bin"))


@pytest.mark.slow
def test_a_resumed_training_from_a_bucket_is_as_if_unbroken(
    flags: Callable[..., list[str]], tmp_path: Path
) -> None:
    pretrain(flags("whole", max_epochs=2))
    pretrain(flags("first", max_epochs=1))
    (first,) = (tmp_path / "first").rglob("last.ckpt")
    resume = ["--resume_from_checkpoint", str(first)]  # into the folder of the checkpoint
    pretrain([*flags("first", max_epochs=2), *resume])
    states = []
    for name in ("whole", "first"):
        (path,) = (tmp_path / name).rglob("last.ckpt")
        states.append(torch.load(path, weights_only=True)["state_dict"])
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


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


def test_chunks_are_not_packed_again(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is packed already: --data_dir takes its source"):
        pack(["--data_dir", str(root), "--save_path", str(tmp_path / "x"), "--bands", "B4", "B8"])
    with pytest.raises(UserError, match="--verify is for packed stores"):
        pack(["--save_path", str(root), "--verify", "--format", "litdata"])

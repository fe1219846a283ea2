"""LitData chunks streamed from a bucket, against the same chunks in a folder."""

import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import torch
import torch.multiprocessing as mp
from moto.server import ThreadedMotoServer

from datasets.seco_packed import main as pack
from datasets.store.litdata import StreamedPlaces
from main_pretrain import main as pretrain
from tests.references.numbered_patches import Numbered, assert_samples_of, indices
from tests.references.stream_process import (
    WORLD,
    assert_equal,
    make_loader,
    work,
)
from utils.errors import UserError

BUCKET = "seco-test"


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
    s3: Any, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("litdata.streaming.item_loader._MAX_WAIT_TIME", 1)
    copy = shutil.copytree(root, tmp_path / "copy")
    (copy / "chunk-0-3.bin").unlink()
    upload(s3, copy, "lacking")
    source = StreamedPlaces(Path(f"s3://{BUCKET}/lacking"))
    with pytest.raises(UserError, match=r"chunk-0-3\.bin cannot be read .* check the connection"):
        source.read(int(source.first_samples(every_date=True)[3]))


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

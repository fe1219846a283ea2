"""Seeds, and one small copy of each data set for the whole run."""

import ctypes
import gc
import multiprocessing
import os
import random
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

# Without a GPU, Triton's kernels are interpreted. Triton decides when it is imported.
if not Path("/dev/nvidia0").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

import torch
from hypothesis import HealthCheck, settings
from matplotlib.layout_engine import ConstrainedLayoutEngine

from datasets.mini_earth import write_bigearthnet, write_eurosat, write_oscd, write_seco

LAY_OUT = ConstrainedLayoutEngine.execute

# How long an example takes is the machine's affair.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")


@pytest.fixture(autouse=True)
def _seed() -> None:
    random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def _fast_and_alike_everywhere() -> Iterator[None]:
    """Change what would only cost time here, or depend on the machine."""
    torch.set_num_threads(1)  # tensors are tiny: more threads only wait for each other
    # Tests replace functions that worker processes call: only forks have them replaced.
    multiprocessing.set_start_method("fork", force=True)  # not the default from Python 3.14 on
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)  # no test cuts the power
        # Pictures are drawn, but not laid out, which takes longer than a short training.
        patch.setattr(ConstrainedLayoutEngine, "execute", lambda *_: None)
        # Python looks for garbage only once it holds a quarter more than before, and all that is
        # imported is much: trainers, which refer to themselves, would keep gigabytes of models.
        gc.freeze()
        yield
        gc.unfreeze()


@pytest.fixture(autouse=True, scope="module")
def _no_garbage() -> Iterator[None]:
    """Give back what the tests of a module have left: glibc keeps what is freed, if it can."""
    yield
    gc.collect()
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)


@pytest.fixture
def _restored_signals() -> Iterator[None]:
    """Restore the handlers of signals that scripts and Lightning replace."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    before = {number: signal.getsignal(number) for number in numbers}
    with pytest.MonkeyPatch.context() as patch:
        # It would end the process of the tests, in which a signal is no reason to end.
        patch.setattr("utils.cli.end_in_time", lambda: None)
        yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def laid_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lay pictures out after all, for a test that looks at one."""
    monkeypatch.setattr(ConstrainedLayoutEngine, "execute", LAY_OUT)


@pytest.fixture(scope="session")
def seco_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """6 places x 4 dates x 12 bands, 48 px at 10 m, with previews. Read only: copy to change."""
    root = tmp_path_factory.mktemp("mini_earth") / "seco"
    write_seco(root, num_places=6, num_dates=4, size=48, previews=True, num_workers=1)
    return root


@pytest.fixture(scope="session")
def bigearthnet_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """50 patches of BigEarthNet v1 in 30 + 10 + 10, with lists. Read only: copy to change."""
    root = tmp_path_factory.mktemp("mini_earth") / "bigearthnet"
    write_bigearthnet(root, num_patches=50, num_workers=1)
    return root


@pytest.fixture(scope="session")
def eurosat_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """10 classes x 5 pictures of 32 px without lists. Read only: copy to change."""
    root = tmp_path_factory.mktemp("mini_earth") / "EuroSAT_RGB"
    write_eurosat(root, images_per_class=5, size=32, num_workers=1)
    return root


@pytest.fixture(scope="session")
def oscd_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2 training cities and 2 test cities of 64 px. Read only: copy to change."""
    root = tmp_path_factory.mktemp("mini_earth") / "oscd"
    write_oscd(root, num_cities=4, size=64, num_workers=1)
    return root

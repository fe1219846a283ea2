"""Seeds, and one small copy of each data set for the whole run."""

import ctypes
import gc
import multiprocessing
import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

# Without a GPU, Triton's kernels are interpreted. Triton decides when it is imported.
if not Path("/dev/nvidia0").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

from datasets.mini_earth import write_bigearthnet, write_eurosat, write_oscd, write_seco

gc.disable()  # Importing makes no garbage.
# What is imported by functions is not needed by the process that only distributes the tests.


def pytest_collectstart() -> None:
    from hypothesis import HealthCheck, settings

    # How long an example takes is the machine's affair.
    slow = [HealthCheck.too_slow]
    settings.register_profile("any machine", deadline=None, suppress_health_check=slow)
    settings.load_profile("any machine")


@pytest.fixture(autouse=True)
def _seed() -> None:
    import torch

    random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def laying_out() -> Iterator[Any]:
    """Change what would only cost time here, or depend on the machine; return the layout."""
    import torch
    from lightning_fabric.utilities import registry
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    torch.set_num_threads(1)  # tensors are tiny: more threads only wait for each other
    # Autograd counts the devices at its first use. Without a GPU, an export or torch.compile before
    # it leaves a pretended one, whose threads forbid training in forks of this process.
    torch.ones((), requires_grad=True).backward()
    # Tests replace functions that worker processes call: only forks have them replaced.
    multiprocessing.set_start_method("fork", force=True)  # not the default from Python 3.14 on
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)  # no test cuts the power
        lay_out = ConstrainedLayoutEngine.execute
        # Pictures are drawn, but not laid out, which takes longer than a short training.
        patch.setattr(ConstrainedLayoutEngine, "execute", lambda *_: None)
        # Each trainer reads the metadata of all installed packages.
        patch.setattr(registry, "entry_points", cache(registry.entry_points))
        patch.setattr("utils.metrics.RESAMPLES", 20)
        # All that is imported is much to search for garbage, and trainers, which refer to
        # themselves, would keep gigabytes of models until a quarter more is held.
        gc.freeze()
        gc.set_threshold(10_000, 20, 20)
        gc.enable()
        yield lay_out
        gc.unfreeze()  # nanobind, in Triton, reports what is never freed as leaked


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
def laid_out(monkeypatch: pytest.MonkeyPatch, laying_out: Any) -> None:
    """Lay pictures out after all, for a test that looks at one."""
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    monkeypatch.setattr(ConstrainedLayoutEngine, "execute", laying_out)


def written_once(
    factory: pytest.TempPathFactory, name: str, write: Callable[..., None], **sizes: Any
) -> Path:
    """Write a data set that all processes of the run read."""
    base = factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    root, partial = base / f"mini_{name}" / name, base / "partial" / name
    with FileLock(base / f"{name}.lock"):
        if not root.exists():
            write(partial, num_workers=1, **sizes)
            root.parent.mkdir(exist_ok=True)
            partial.rename(root)
    return root


@pytest.fixture(scope="session")
def seco_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """6 places x 4 dates x 12 bands, 48 px at 10 m, with previews. Read only: copy to change."""
    sizes = {"num_places": 6, "num_dates": 4, "size": 48, "previews": True}
    return written_once(tmp_path_factory, "seco", write_seco, **sizes)


@pytest.fixture(scope="session")
def bigearthnet_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """50 patches of BigEarthNet v1 in 30 + 10 + 10, with lists. Read only: copy to change."""
    return written_once(tmp_path_factory, "bigearthnet", write_bigearthnet, num_patches=50)


@pytest.fixture(scope="session")
def eurosat_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """10 classes x 5 pictures of 32 px without lists. Read only: copy to change."""
    sizes = {"images_per_class": 5, "size": 32}
    return written_once(tmp_path_factory, "EuroSAT_RGB", write_eurosat, **sizes)


@pytest.fixture(scope="session")
def oscd_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2 training cities and 2 test cities of 64 px. Read only: copy to change."""
    return written_once(tmp_path_factory, "oscd", write_oscd, num_cities=4, size=64)

"""The scripts under every way to start processes; forkserver is the default from Python 3.14 on."""

import multiprocessing
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

import main_bigearthnet
import main_oscd
import main_pretrain
from datasets import bigearthnet_dataset, mini_earth, seco_packed
from tests.references.launcher_variables import forget_launchers
from tests.references.script import in_processes

NEEDS_LITDATA = pytest.mark.skipif(find_spec("litdata") is None, reason="LitData is optional")
# Runs a script as the command line does, after the start method was chosen.
UNDER = """
import multiprocessing, runpy, sys
if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    sys.argv = sys.argv[2:]
    sys.path[0] = "."
    runpy.run_path(sys.argv[0], run_name="__main__")
"""
TRAIN = "--log_dir LOGS --gpus 0 --max_epochs 1 --num_workers 1"
SLIM = "--base_encoder resnet18_slim"
PRETRAIN = f"{SLIM} --crop_size 32 --batch_size 3 --num_negatives 8 --precision 32-true {TRAIN}"
BIGEARTHNET = f"--data_dir BIGEARTHNET --image_size 32 --num_seeds 1 --backbone_type random {SLIM}"
COMMANDS = {
    "pretrain": f"main_pretrain.py --data_dir SECO {PRETRAIN}",
    "stream": f"main_pretrain.py --data_dir CHUNKS {PRETRAIN}",
    "oscd": "main_oscd.py --data_dir OSCD --patch_size 32 --batch_size 4 --num_seeds 1 "
    f"--backbone_type random {SLIM} {TRAIN}",
    "probe": f"main_bigearthnet.py {BIGEARTHNET} --batch_size 8 --freeze_backbone {TRAIN}",
    "finetune": f"main_bigearthnet.py {BIGEARTHNET} --batch_size 8 {TRAIN}",
    "pack": "datasets/seco_packed.py --data_dir SECO --save_path OUT --num_workers 1",
    "chunks": "datasets/seco_packed.py --data_dir SECO --save_path OUT --format litdata "
    "--num_workers 1",
    "lmdb": "datasets/bigearthnet_dataset.py --data_dir BIGEARTHNET --save_dir OUT --num_workers 1",
    "mini_earth": "datasets/mini_earth.py --dataset eurosat --num_places 80 --size 32 "
    "--save_path OUT --num_workers 2",
}
CASES = [
    pytest.param(name, marks=NEEDS_LITDATA if name in ("stream", "chunks") else ())
    for name in COMMANDS
]
MAINS = {
    "main_pretrain.py": main_pretrain.main,
    "main_oscd.py": main_oscd.main,
    "main_bigearthnet.py": main_bigearthnet.main,
    "datasets/seco_packed.py": seco_packed.main,
    "datasets/bigearthnet_dataset.py": bigearthnet_dataset.main,
    "datasets/mini_earth.py": mini_earth.main,
}


@pytest.fixture(scope="module")
def places(
    seco_root: Path,
    bigearthnet_root: Path,
    oscd_root: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Path]:
    """Folders by the names that commands have for them."""
    folders = {"SECO": seco_root, "BIGEARTHNET": bigearthnet_root, "OSCD": oscd_root}
    if find_spec("litdata") is not None:
        folders["CHUNKS"] = tmp_path_factory.mktemp("start_methods") / "chunks"
        flags = ["--data_dir", str(seco_root), "--save_path", str(folders["CHUNKS"])]
        seco_packed.main([*flags, "--format", "litdata", "--num_workers", "0"])
    return folders


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_launchers(monkeypatch)


@pytest.fixture
def _forkserver() -> Iterator[None]:
    """One server for all tests: it imports torch once."""
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method("forkserver", force=True)
    yield
    multiprocessing.set_start_method(before, force=True)


def command(name: str, places: dict[str, Path], tmp_path: Path) -> list[str]:
    folders = places | {"LOGS": tmp_path / "logs", "OUT": tmp_path / "out"}
    return [str(folders.get(word, word)) for word in COMMANDS[name].split()]


@pytest.mark.usefixtures("_forkserver")
@pytest.mark.parametrize("name", ["pretrain", "oscd", "probe", "pack", "lmdb", "mini_earth"])
def test_processes_of_a_fork_server_do_the_work(
    name: str, places: dict[str, Path], tmp_path: Path
) -> None:
    script, *flags = command(name, places, tmp_path)
    MAINS[script](flags)
    written = {path.name for path in tmp_path.rglob("*")}
    assert written & {"results.json", "manifest.json", "index.json", "data.mdb", "Forest"}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
@pytest.mark.parametrize("name", CASES)
def test_every_script_ends_under_every_start_method(
    name: str, method: str, places: dict[str, Path], tmp_path: Path
) -> None:
    runner = tmp_path / "under.py"
    runner.write_text(UNDER)
    done = in_processes(str(runner), method, *command(name, places, tmp_path))
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_loader_process_imports_neither_lightning_nor_plots() -> None:
    """Unless it is a fork, each of them imports what its data set needs."""
    script = (
        "import sys, datasets.seco.samples, datasets.seco.patches, datasets.seco.pictures\n"
        "import datasets.oscd_dataset, datasets.bigearthnet_dataset\n"
        "print(sorted({'pytorch_lightning', 'lightning_fabric', 'matplotlib', 'scipy'}"
        " & sys.modules.keys()))"
    )
    done = in_processes("-c", script)
    assert done.stdout == "[]\n", done.stderr

"""What answers before anything heavy is imported, and what never imports it."""

import json
import os
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from datasets.miniature.services.earth_engine import EarthEngineServer, earth_engine
from tests.servers.stac_server import stac

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {"torch", "torchvision", "pytorch_lightning", "lightning_fabric", "scipy", "sklearn"}
# Runs a script or module as the command line does, then tells what it has imported.
RUNNER = """
import atexit, json, runpy, sys
report, target, *sys.argv[1:] = sys.argv[1:]
sys.argv[0] = target
def tell():
    with open(report, "w") as file:
        json.dump(sorted(sys.modules), file)
atexit.register(tell)
if target.endswith(".py"):
    runpy.run_path(target, run_name="__main__")
else:
    runpy.run_module(target, run_name="__main__", alter_sys=True)
"""
MAIN = ["main_pretrain.py", "main_eurosat.py", "main_bigearthnet.py", "main_oscd.py"]
# With flags that are needed, so that a misspelt one is the only fault.
SCRIPTS = {
    **{script: ["--data_dir", "."] for script in MAIN},
    "datasets/bigearthnet_dataset.py": ["--data_dir", ".", "--save_dir", "x"],
    "datasets/collect/cities.py": [],
    "datasets/download.py": ["--list"],
    "datasets/eurosat_dataset.py": ["--data_dir", ".", "--save_path", "x"],
    "datasets/mini_earth.py": ["--dataset", "seco", "--save_path", "x", "--num_places", "1"],
    "datasets/seco_downloader.py": ["--save_path", "x"],
    "datasets/seco_packed.py": ["--data_dir", ".", "--save_path", "x"],
    "datasets/seco_utils.py": ["--data_dir", "."],
    "checkpoints/download.py": ["--list"],
    "models.export": ["--ckpt_path", ".", "--format", "timm", "--save_path", "x"],
    "benchmarks.demo": [],
    "benchmarks.download": [],
    "benchmarks.table": [],
    "benchmarks.throughput": [],
    "benchmarks.traffic": [],
}


@dataclass(frozen=True)
class Answer:
    """What a command did: its exit code, its CPU time, its output and its imports."""

    code: int
    cpu_s: float
    out: str
    err: str
    modules: set[str]


def children_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def ask(folder: Path, target: str, *argv: str, code: str = RUNNER) -> Answer:
    """Run a command of the project to its end."""
    report = folder / "modules.json"
    before = children_cpu_s()
    done = subprocess.run(
        [sys.executable, "-c", code, str(report), target, *argv],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    cpu_s = children_cpu_s() - before
    modules = {name.split(".")[0] for name in json.loads(report.read_text())}
    return Answer(done.returncode, cpu_s, done.stdout, done.stderr, modules)


@pytest.fixture(scope="module")
def most_cpu_s() -> float:
    """A second, and more where the machine is slow now: what importing NumPy costs tells."""
    before = children_cpu_s()
    subprocess.run([sys.executable, "-c", "import numpy"], check=True)
    return max(1.0, 5 * (children_cpu_s() - before))


def test_every_script_is_tried_here() -> None:
    files = [
        path
        for path in ROOT.glob("[a-z]*/**/*.py")
        if 'if __name__ == "__main__"' in path.read_text()
    ]
    names = {str(path.relative_to(ROOT)) for path in files}
    names = {name for name in names if not name.startswith("tests/")}
    tried = {name if "/" in name else name.replace(".", "/") + ".py" for name in SCRIPTS}
    assert names <= tried


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_costs_no_imports(script: str, tmp_path: Path, most_cpu_s: float) -> None:
    answer = ask(tmp_path, script, "--help")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith("usage: ")
    assert not answer.modules & {*HEAVY, "rasterio", "matplotlib"}
    assert answer.cpu_s < most_cpu_s


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_misspelt_flag_is_one_sentence(script: str, tmp_path: Path, most_cpu_s: float) -> None:
    answer = ask(tmp_path, script, *SCRIPTS[script], "--sed", "3")
    assert answer.code == 2
    assert answer.err.startswith("error: --sed is not a flag")
    assert len(answer.err.splitlines()) == 1
    assert not answer.modules & HEAVY
    assert answer.cpu_s < most_cpu_s


PRETRAIN, EUROSAT = "main_pretrain.py --data_dir", "main_eurosat.py --data_dir"
NOWHERE = "{tmp}/nowhere"


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        *((script, "required: --data_dir; see --help") for script in MAIN),
        *((f"{script} --data_dir nowhere", f"--data_dir {ROOT}/nowhere does") for script in MAIN),
        (f"{PRETRAIN} . --image_list {NOWHERE}", f"--image_list {NOWHERE} does not exist"),
        (f"{PRETRAIN} . --online_data_dir {NOWHERE}", f"--online_data_dir {NOWHERE} does not"),
        (f"{PRETRAIN} . --resume_from_checkpoint {NOWHERE}", f"_checkpoint {NOWHERE} does not"),
        (f"{PRETRAIN} . --batch_size 1", "--batch_size and --bn_group_size cannot be 1"),
        (f"{EUROSAT} . --backbone_type pretrain", "--backbone_type pretrain needs --ckpt_path"),
        (f"{EUROSAT} . --ckpt_path x", "not read with --backbone_type imagenet: add --backbone_"),
        (
            f"{EUROSAT} . --backbone_type pretrain --ckpt_path {NOWHERE}",
            f"--ckpt_path {NOWHERE} does not exist",
        ),
        (f"datasets/seco_downloader.py --save_path {NOWHERE} --status", f"{NOWHERE} does not"),
        (f"datasets/seco_downloader.py --save_path {NOWHERE} --verify", f"{NOWHERE} does not"),
        (
            f"datasets/seco_downloader.py --save_path x --indices_file {NOWHERE}",
            f"--indices_file {NOWHERE} does not exist",
        ),
        (
            f"datasets/seco_downloader.py --save_path x --match_file {NOWHERE}",
            f"--match_file {NOWHERE} does not exist",
        ),
        (f"datasets/seco_packed.py --data_dir {NOWHERE} --save_path x", f"{NOWHERE} does not"),
        (f"datasets/seco_packed.py --verify --save_path {NOWHERE}", f"{NOWHERE} does not"),
        (f"datasets/seco_utils.py --data_dir {NOWHERE}", f"--data_dir {NOWHERE} does not exist"),
        (f"datasets/eurosat_dataset.py --data_dir {NOWHERE} --save_path x", f"{NOWHERE} does"),
        (f"datasets/bigearthnet_dataset.py --data_dir {NOWHERE} --save_dir x", f"{NOWHERE} does"),
        (f"models.export --ckpt_path {NOWHERE} --format timm --save_path x", f"{NOWHERE} does"),
    ],
)
def test_flags_that_cannot_work_are_named_at_once(
    command: str, expected: str, tmp_path: Path, most_cpu_s: float
) -> None:
    answer = ask(tmp_path, *command.replace("{tmp}", str(tmp_path)).split())
    assert answer.code == 2
    assert expected.replace("{tmp}", str(tmp_path)) in answer.err
    assert len(answer.err.splitlines()) == 1
    assert not answer.modules & HEAVY
    assert answer.cpu_s < most_cpu_s


# --- the downloader -----------------------------------------------------------------------------

# Takes several command lines, as JSON, and does one after the other.
STEPS = """
import atexit, json, sys
report, commands = sys.argv[1:]
from datasets import seco_downloader
codes = []
for argv in json.loads(commands):
    try:
        seco_downloader.main(argv)
        codes.append(0)
    except SystemExit as leaving:
        codes.append(leaving.code)
with open(report, "w") as file:
    json.dump(sorted(sys.modules), file)
assert codes == [0] * len(codes), codes
"""


def steps(folder: Path, flags: list[str]) -> Answer:
    """Plan, probe, collect, ask for the status and verify, in one process without torch."""
    path = ["--save_path", str(folder / "c")]
    commands = [
        [*path, *flags, "--plan"],
        [*path, *flags, "--probe", "2"],
        [*path, *flags],
        [*path, "--status"],
        [*path, "--verify"],
    ]
    return ask(folder, json.dumps(commands), code=STEPS)


@pytest.fixture(scope="module")
def engine() -> "EarthEngineServer":  # type: ignore[misc]
    with earth_engine() as server:
        yield server


SMALL = ["--num_locations", "3", "--patch_px", "12", "--num_dates", "2", "--no_land_mask"]
QUICK = ["--num_workers", "4", "--retry_wait", "0.01", "--min_free_gb", "0"]


@pytest.mark.parametrize("form", ["folder", "packed"])
def test_the_downloader_does_without_torch(
    form: str, engine: EarthEngineServer, tmp_path: Path
) -> None:
    answer = steps(tmp_path, [*SMALL, *QUICK, "--ee_url", engine.url, "--format", form])
    assert answer.code == 0, answer.err
    assert "3 of 3 places, 0 damaged" in answer.out
    assert not answer.modules & HEAVY


def test_the_downloader_does_without_torch_from_a_catalogue(tmp_path: Path) -> None:
    with stac() as server:
        source = ["--source", "stac", "--stac_url", server.url]
        answer = steps(tmp_path, [*SMALL, *QUICK, *source, "--reference_date", "2022-03-01"])
    assert answer.code == 0, answer.err
    assert "3 of 3 places, 0 damaged" in answer.out
    assert not answer.modules & HEAVY


def test_packing_does_without_torch(seco_root: Path, tmp_path: Path) -> None:
    """Each of its worker processes would import it, too, where they are no forks."""
    paths = ["--data_dir", str(seco_root), "--save_path", str(tmp_path / "store")]
    answer = ask(tmp_path, "datasets/seco_packed.py", *paths, "--num_workers", "1")
    assert answer.code == 0, answer.err
    assert not answer.modules & HEAVY

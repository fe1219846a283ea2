"""What answers before anything heavy is imported, and what never imports it."""

import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from datasets.miniature.services.earth_engine import earth_engine
from tests.servers.stac_server import stac

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {"torch", "torchvision", "pytorch_lightning", "lightning_fabric", "scipy", "sklearn"}
# Runs a script or module as the command line does, or several times with AND between the flags,
# then reports what it has imported.
RUNNER = """
import atexit, json, runpy, sys
report, target, *words = sys.argv[1:]
atexit.register(lambda: json.dump(sorted(sys.modules), open(report, "w")))
code = None
while words or code is None:
    end = words.index("AND") if "AND" in words else len(words)
    sys.argv, words, code = [target, *words[:end]], words[end + 1:], 0
    try:
        if target.endswith(".py"):
            runpy.run_path(target, run_name="__main__")
        else:
            runpy.run_module(target, run_name="__main__", alter_sys=True)
    except SystemExit as leaving:
        code = leaving.code
sys.exit(code)
"""
MAIN = ["main_pretrain.py", "main_eurosat.py", "main_bigearthnet.py", "main_oscd.py"]
# With flags that are needed, so that a misspelt one is the only fault.
SCRIPTS = {
    **dict.fromkeys(MAIN, "--data_dir ."),
    "datasets/bigearthnet_dataset.py": "--data_dir . --save_dir x",
    "datasets/download.py": "--list",
    "datasets/eurosat_dataset.py": "--data_dir . --save_path x",
    "datasets/mini_earth.py": "--dataset seco --save_path x --num_places 1",
    "datasets/seco_downloader.py": "--save_path x",
    "datasets/seco_packed.py": "--data_dir . --save_path x",
    "datasets/seco_utils.py": "--data_dir .",
    "checkpoints/download.py": "--list",
    "datasets.miniature.services": "",
    "models.export": "--ckpt_path . --format timm --save_path x",
    **{
        f"benchmarks.{name}": ""
        for name in ("demo", "download", "gpu", "rivals", "table", "throughput", "traffic")
    },
}


class Answer(NamedTuple):
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
    command = [sys.executable, "-c", code, str(report), target, *argv]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    cpu_s = children_cpu_s() - before
    modules = {name.split(".")[0] for name in json.loads(report.read_text())}
    return Answer(done.returncode, cpu_s, done.stdout, done.stderr, modules)


@pytest.fixture(scope="module")
def most_cpu_s() -> float:
    """A second, and more where the machine is slow now, as importing NumPy shows."""
    before = children_cpu_s()
    subprocess.run([sys.executable, "-c", "import numpy"], check=True)
    return max(1.0, 5 * (children_cpu_s() - before))


def test_every_script_is_tried_here() -> None:
    files = [
        str(path.relative_to(ROOT)).replace("/__main__", "")
        for path in ROOT.glob("[a-z]*/**/*.py")
        if 'if __name__ == "__main__"' in path.read_text()
    ]
    tried = {name if "/" in name else name.replace(".", "/") + ".py" for name in SCRIPTS}
    assert {name for name in files if not name.startswith("tests/")} <= tried


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_and_a_misspelt_flag_cost_no_imports(
    script: str, tmp_path: Path, most_cpu_s: float
) -> None:
    misspelt = [*SCRIPTS[script].split(), "--sed", "3"]
    answer = ask(tmp_path, script, *misspelt, "AND", "--help")
    assert answer.code == 0
    assert re.fullmatch("error: --sed is not a flag.*\n", answer.err)
    assert answer.out.startswith("usage: ")
    assert not answer.modules & {*HEAVY, "rasterio", "matplotlib"}
    assert answer.cpu_s < most_cpu_s


NOWHERE = "{tmp}/nowhere"
PRETRAIN, EUROSAT = "main_pretrain.py --data_dir", "main_eurosat.py --data_dir"
DOWNLOADER = "datasets/seco_downloader.py --save_path"


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
        (f"{EUROSAT} . --backbone_type pretrain --ckpt_path {NOWHERE}", f"_path {NOWHERE} does"),
        (f"{DOWNLOADER} {NOWHERE} --status", f"{NOWHERE} does not"),
        (f"{DOWNLOADER} {NOWHERE} --verify", f"{NOWHERE} does not"),
        (f"{DOWNLOADER} x --indices_file {NOWHERE}", f"--indices_file {NOWHERE} does not exist"),
        (f"{DOWNLOADER} x --match_file {NOWHERE}", f"--match_file {NOWHERE} does not exist"),
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


# Takes several command lines, as JSON, and runs one after the other.
STEPS = """
import json, sys
report, commands = sys.argv[1:]
from datasets import seco_downloader
codes = []
for argv in json.loads(commands):
    try:
        seco_downloader.main(argv)
        codes.append(0)
    except SystemExit as leaving:
        codes.append(leaving.code)
json.dump(sorted(sys.modules), open(report, "w"))
assert codes == [0] * len(codes), codes
"""
SMALL = "--num_locations 3 --patch_px 12 --num_dates 2 --no_land_mask --num_workers 4 "
SMALL += "--retry_wait 0.01 --min_free_gb 0"


@pytest.mark.parametrize("source", ["--format packed", "--source stac --format folder"])
def test_the_downloader_does_without_torch(source: str, tmp_path: Path) -> None:
    """Plan, probe, collect, ask for the status and verify, in one process."""
    is_stac = "stac" in source
    with stac() if is_stac else earth_engine() as server:
        address = "--reference_date 2022-03-01 --stac_url" if is_stac else "--ee_url"
        flags = [*SMALL.split(), *source.split(), *address.split(), server.url]
        steps = [*([*flags, *more] for more in (["--plan"], ["--probe", "2"], []))]
        steps += [["--status"], ["--verify"]]
        path = ["--save_path", str(tmp_path / "c")]
        answer = ask(tmp_path, json.dumps([[*path, *step] for step in steps]), code=STEPS)
    assert answer.code == 0, answer.err
    assert "3 of 3 places, 0 damaged" in answer.out
    assert not answer.modules & HEAVY


def test_packing_does_without_torch(seco_root: Path, tmp_path: Path) -> None:
    """Each of its worker processes would import it, too, where they are no forks."""
    paths = ["--data_dir", str(seco_root), "--save_path", str(tmp_path / "store")]
    answer = ask(tmp_path, "datasets/seco_packed.py", *paths, "--num_workers", "1")
    assert answer.code == 0, answer.err
    assert not answer.modules & HEAVY

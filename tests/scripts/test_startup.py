"""What answers before anything heavy is imported, and what never imports it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from datasets.miniature.services.earth_engine import earth_engine
from tests.references.script import ROOT
from tests.servers.stac_server import stac

HEAVY = {"torch", "torchvision", "pytorch_lightning", "lightning_fabric", "scipy", "sklearn"}
# Runs scripts and modules as the command line does, one after the other: a Python takes as long to
# start as most of them to answer. Reports exit code, CPU time, output, and what is new of imports.
RUNNER = """
import contextlib, io, json, runpy, sys, time
answers = []
for target, *words in json.loads(sys.argv[1]):
    known, start, sys.argv, code = set(sys.modules), time.process_time(), [target, *words], 0
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            if target.endswith(".py"):
                runpy.run_path(target, run_name="__main__")
            else:
                runpy.run_module(target, run_name="__main__", alter_sys=True)
        except SystemExit as leaving:
            code = leaving.code
    cpu_s = time.process_time() - start
    modules = sorted({name.split(".")[0] for name in set(sys.modules) - known})
    answers.append((code, cpu_s, out.getvalue(), err.getvalue(), modules))
print(json.dumps(answers))
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
    "main_embed.py": "--data_dir . --save_path e.npz",
    "main_report.py": ".",
    "datasets/verify.py": ".",
    "models.export": "--ckpt_path . --format timm --save_path x",
    "examples.change_map": ". . --ckpt_path x",
    "examples.embed_geotiff": "--data_dir . --ckpt_path x",
    "examples.export_encoder": "--ckpt_path . --picture x",
    "examples.few_labels": "--data_dir . --ckpt_path x",
    "examples.pretrain_pictures": "--data_dir .",
    "examples.search_city": "--data_dir . --ckpt_path x --place 0,0",
    **{
        f"benchmarks.{name}": ""
        for name in (
            "demo",
            "download",
            "gpu",
            "reliability",
            "rivals",
            "table",
            "throughput",
            "traffic",
        )
    },
}


# Measurements that have hardly a flag.
NEED_TORCH = {
    f"benchmarks/{name}.py"
    for name in ("embedding", "reliability_checkpoints", "reliability_verify")
}


class Answer(NamedTuple):
    """What a command did: its exit code, its CPU time, its output and its new imports."""

    code: int
    cpu_s: float
    out: str
    err: str
    modules: list[str]


def ask(commands: list[str]) -> dict[str, Answer]:
    """Run commands of the project to their ends."""
    argv = [sys.executable, "-c", RUNNER, json.dumps([text.split() for text in commands])]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    return {text: Answer(*answer) for text, answer in zip(commands, answers, strict=True)}


@pytest.fixture(scope="module")
def most_cpu_s() -> float:
    """A second, and more where the machine is slow now, as importing NumPy shows."""
    measure = "import time, numpy; print(time.process_time())"
    done = subprocess.run([sys.executable, "-c", measure], check=True, capture_output=True)
    return max(1.0, 5 * float(done.stdout))


@pytest.fixture(scope="module")
def nowhere(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("startup") / "nowhere")


@pytest.fixture(scope="module")
def answers(nowhere: str) -> dict[str, Answer]:
    """Answers to all commands that are cheap."""
    commands = [command.replace(NOWHERE, nowhere) for command, _ in REFUSED]
    for script, flags in SCRIPTS.items():
        commands += [f"{script} {flags} --sed 3", f"{script} --help"]
    return ask(commands)


def test_every_script_is_tried_here() -> None:
    files = [
        str(path.relative_to(ROOT)).replace("/__main__", "")
        for path in ROOT.glob("[a-z]*/**/*.py")
        if 'if __name__ == "__main__"' in path.read_text()
    ]
    tried = {name if "/" in name else name.replace(".", "/") + ".py" for name in SCRIPTS}
    assert {name for name in files if not name.startswith("tests/")} <= tried | NEED_TORCH


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_and_a_misspelt_flag_cost_no_imports(
    script: str, answers: dict[str, Answer], most_cpu_s: float
) -> None:
    misspelt, usage = answers[f"{script} {SCRIPTS[script]} --sed 3"], answers[f"{script} --help"]
    assert (misspelt.code, usage.code) == (2, 0)
    assert re.fullmatch("error: --sed is not a flag.*\n", misspelt.err)
    assert usage.out.startswith("usage: ")
    for answer in (misspelt, usage):
        assert not {*answer.modules} & {*HEAVY, "rasterio", "matplotlib"}
        assert answer.cpu_s < most_cpu_s


NOWHERE = "{nowhere}"
PRETRAIN, EUROSAT = "main_pretrain.py --data_dir", "main_eurosat.py --data_dir"
DOWNLOADER = "datasets/seco_downloader.py --save_path"


REFUSED = [
    *((script, "required: --data_dir; see --help") for script in MAIN),
    *((f"{script} --data_dir nowhere", f"--data_dir {ROOT}/nowhere does") for script in MAIN),
    (f"{PRETRAIN} . --image_list {NOWHERE}", f"--image_list {NOWHERE} does not exist"),
    (f"{PRETRAIN} . --online_data_dir {NOWHERE}", f"--online_data_dir {NOWHERE} does not"),
    (f"{PRETRAIN} . --resume_from_checkpoint {NOWHERE}", f"_checkpoint {NOWHERE} does not"),
    (f"{PRETRAIN} . --config {NOWHERE}", f"--config {NOWHERE} does not exist"),
    (f"{PRETRAIN} . --logger none csv", "--logger none excludes the other loggers"),
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
]


@pytest.mark.parametrize(("command", "expected"), REFUSED)
def test_flags_that_cannot_work_are_named_at_once(
    command: str, expected: str, answers: dict[str, Answer], nowhere: str, most_cpu_s: float
) -> None:
    answer = answers[command.replace(NOWHERE, nowhere)]
    assert answer.code == 2
    assert expected.replace(NOWHERE, nowhere) in answer.err
    assert len(answer.err.splitlines()) == 1
    assert not {*answer.modules} & HEAVY
    assert answer.cpu_s < most_cpu_s


SMALL = "--num_locations 3 --patch_px 12 --num_dates 2 --no_land_mask --num_workers 4 "
SMALL += "--retry_wait 0.01 --min_free_gb 0"
STEPS = ("--status", "--verify")


def test_the_downloader_and_packing_do_without_torch(seco_root: Path, tmp_path: Path) -> None:
    """Plan, probe, collect, ask for the status and verify; pack, whose workers would import it."""
    commands = []
    with stac() as scenes, earth_engine() as engine:
        packed = f"--format packed --ee_url {engine.url}"
        folder = f"--source stac --reference_date 2022-03-01 --stac_url {scenes.url}"
        for number, source in enumerate((packed, f"{folder} --format folder")):
            collect = f"{DOWNLOADER} {tmp_path}/{number} {SMALL} {source}"
            commands += [f"{collect} --plan", f"{collect} --probe 2", collect]
            commands += [f"{DOWNLOADER} {tmp_path}/{number} {step}" for step in STEPS]
        packing = f"datasets/seco_packed.py --data_dir {seco_root} --save_path {tmp_path}/store"
        answers = ask([*commands, f"{packing} --num_workers 1"])
    assert [answer.err for answer in answers.values() if answer.code] == []
    verified = [answer.out for command, answer in answers.items() if STEPS[-1] in command]
    assert ["3 of 3 places, 0 damaged" in out for out in verified] == [True] * 2
    assert not {name for answer in answers.values() for name in answer.modules} & HEAVY

"""No version with a known vulnerability is allowed, and nothing is sent unless requested."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.references.waiting import HANG_S

ROOT = Path(__file__).parents[1]
# The last bad versions and their advisories, of which https://osv.dev has the sources.
KNOWN_BAD = [
    ("torch", "2.5.1", "CVE-2025-32434"),
    ("torch", "2.9.1", "CVE-2026-24747"),
    ("torch", "2.10.0", "PYSEC-2026-139"),
    ("pytorch-lightning", "2.6.3", "malware"),
    ("pytorch-lightning", "2.6.5", "GHSA-qqmf-gpg7-g8gw"),
    ("pillow", "12.1.1", "CVE-2026-40192"),
    ("pillow", "12.2.0", "PYSEC-2026-2253"),
    ("opencv-python-headless", "4.11.0.86", "CVE-2025-53644"),
    ("filelock", "3.20.2", "CVE-2026-22701"),
    ("tqdm", "4.66.2", "CVE-2024-34062"),
    ("pyarrow", "23.0.0", "CVE-2026-25087"),
    ("requests", "2.32.3", "CVE-2024-47081"),
    ("requests", "2.32.5", "CVE-2026-25645"),
    ("onnx", "1.20.1", "CVE-2026-34445"),
]
# Runs what it is given after its flags, and writes down every connection that Python tries. Sockets
# of files, which processes of one machine use, have addresses that are no tuples.
WATCHED = """
import importlib, json, runpy, sys
tried = []

def refuse(event, arguments):
    name = {"socket.connect": 1, "socket.sendto": 1, "socket.getaddrinfo": 0,
            "socket.gethostbyname": 0}.get(event)
    if name is not None and (event[7] == "g" or isinstance(arguments[name], tuple)):
        tried.append(f"{event} {arguments[name]}")
        raise OSError("no network in this test")

sys.addaudithook(refuse)
report, modules, scripts, data, logs = sys.argv[1:]
for name in json.loads(modules):
    importlib.import_module(name)
for script in json.loads(scripts):
    sys.argv = [script, "--help"]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        assert end.code == 0, script
import main_eurosat, main_pretrain
from tests.references.pretraining import SMALL

main_pretrain.main(["--data_dir", f"{data}/seco", "--log_dir", logs, "--max_epochs", "1", *SMALL])
main_eurosat.main(["--data_dir", f"{data}/EuroSAT_RGB", "--log_dir", logs, "--max_epochs", "1",
                   *"--backbone_type random --num_seeds 1 --num_workers 0 --gpus 0".split()])
json.dump(tried, open(report, "w"))
"""


@pytest.mark.parametrize(("package", "version", "advisory"), KNOWN_BAD)
def test_versions_with_known_vulnerabilities_are_excluded(
    package: str, version: str, advisory: str
) -> None:
    text = "".join(path.read_text() for path in ROOT.glob("requirements*.txt"))
    lines = [Requirement(line) for line in text.splitlines() if line and line[0] != "#"]
    (bounds,) = (line.specifier for line in lines if line.name == package)
    assert not bounds.contains(version)
    assert advisory in text


def test_imports_help_and_a_training_open_no_connection(
    seco_root: Path, eurosat_root: Path, tmp_path: Path
) -> None:
    files = [path.relative_to(ROOT) for path in ROOT.glob("[a-z]*/**/*.py")]
    ours = [
        path for path in files if path.parts[0] in ("benchmarks", "datasets", "models", "utils")
    ]
    modules = sorted(
        ".".join(path.with_suffix("").parts) for path in ours if path.stem != "__main__"
    )
    scripts = [
        str(path)
        for path in [*ours, *(path.relative_to(ROOT) for path in ROOT.glob("main_*.py"))]
        if re.search('^if __name__ == "__main__"', (ROOT / path).read_text(), re.MULTILINE)
    ]
    data, report = tmp_path / "data", tmp_path / "tried.json"
    data.mkdir()
    (data / "seco").symlink_to(seco_root)
    (data / "EuroSAT_RGB").symlink_to(eurosat_root)
    given = [report, json.dumps(modules), json.dumps(scripts), data, tmp_path / "logs"]
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, *map(str, given)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=HANG_S,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(report.read_text()) == []

"""README and docs: commands parse, examples run, links and flags exist, and the site builds."""

import importlib
import json
import re
import shlex
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from benchmarks.rivals import COLUMNS, ROWS
from datasets.collect import args as collect_args
from models.backbones import Encoder
from models.digests import PUBLISHED
from utils.input_spec import SECO_SPEC

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = {
    str(path.relative_to(ROOT)): path.read_text()
    for pattern in ("*.md", "docs/*.md", "checkpoints/*.md")
    for path in sorted(ROOT.glob(pattern))
}
README = DOCUMENTS["README.md"]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
# "python script.py --flag", also after VARIABLE=value.
COMMAND = re.compile(r"^(?:[A-Z_]+=\S+ )*python (.+)$", flags=re.MULTILINE)
COMMANDS = sorted(
    {
        command
        for text in DOCUMENTS.values()
        for _, block in BLOCK.findall(text)
        for command in COMMAND.findall(block.replace("\\\n", ""))
    }
)
DOWNLOADER = "datasets/seco_downloader.py"
# Flags that pages name and that belong to torchrun, srun, sbatch and mlflow.
OF_OTHERS = {"--nproc_per_node", "--nodes", "--ntasks-per-node", "--signal", "--array"}
OF_OTHERS |= {"--gpus-per-node", "--max-restarts", "--backend-store-uri"}
OURS = r"(?:benchmarks|checkpoints|datasets|docs|examples|models|utils)"


def test_the_documents_are_complete_and_the_readme_is_short() -> None:
    assert DOCUMENTS.keys() >= {"README.md", "docs/architecture.md", "checkpoints/README.md"}
    assert len(README.splitlines()) <= 200
    scripts = {line.split()[0] for line in COMMAND.findall(README)}
    assert scripts >= {path.name for path in ROOT.glob("main_*.py")} | {DOWNLOADER}
    assert all(f"]({name})" in README for name in DOCUMENTS if name != "README.md")


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse(command: str) -> None:
    script, *arguments = shlex.split(command)
    if script == "-m":
        module = arguments.pop(0).replace(".", "/")
        script = module + ("/__main__.py" if (ROOT / module).is_dir() else ".py")
    source = (ROOT / script).read_text()
    if script == DOWNLOADER:
        collect_args.parse_args(None, arguments)
    elif "def parse_args(" in source:
        name = script.removesuffix(".py").replace("/", ".")
        importlib.import_module(name).parse_args(arguments)
    else:
        for name in re.findall(rf"^ *from ({OURS}[.\w]+) import", source, flags=re.MULTILINE):
            source += (ROOT / f"{name.replace('.', '/')}.py").read_text()
        flags = [each for each in arguments if each.startswith("--")]
        names = arguments[:1] if flags[:1] != arguments[:1] else []  # of a data set
        assert all(f'"{each}' in source for each in names + flags)


def test_flags_and_make_targets_that_are_named_exist() -> None:
    documents = "\n".join(DOCUMENTS.values())
    paths = [path for path in ROOT.glob("*/**/*.py") if re.match(OURS, str(path.relative_to(ROOT)))]
    sources = "\n".join(path.read_text() for path in [*ROOT.glob("main_*.py"), *paths])
    known = set(re.findall(r"[\"'](--[\w-]+)[\"']", sources)) | {"--help"}
    known |= set(re.findall(r"--[a-z]\w*", collect_args.build_parser(None).format_help()))
    assert set(re.findall(r"(?<![\w-])--[a-z][\w-]*", documents)) - known - OF_OTHERS == set()
    targets = set(re.findall(r"(?:^|`)make ([a-z-]+)", documents, re.MULTILINE))
    makefile = (ROOT / "Makefile").read_text()
    assert targets >= {"demo", "test"}
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in targets)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_and_sections_that_are_named_exist(document: str) -> None:
    text = DOCUMENTS[document]
    for link in re.findall(r"\]\(((?!https?://)[^)]+)\)", text):
        name, _, section = link.partition("#")
        target = (ROOT / document).parent / name if name else ROOT / document
        assert target.exists(), link
        if section:
            slugs = re.findall(r"^#+ (.+)$", target.read_text(), flags=re.MULTILINE)
            slugs = [re.sub(r"[^\w -]", "", slug).lower().replace(" ", "-") for slug in slugs]
            assert slugs.count(section) == 1, link
    for name in re.findall(rf"`((?:{OURS}|tests)/[\w./]+\.(?:py|md|json|sbatch))`", text):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_encoder_has_a_model_card(name: str) -> None:
    assert f"\n| `{name}` | {PUBLISHED[name][1]} | " in DOCUMENTS["checkpoints/README.md"]


def test_the_citation_is_valid_and_that_of_the_readme() -> None:
    """Keys: https://github.com/citation-file-format/citation-file-format/tree/1.2.0."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert citation.keys() >= {"message", "title", "authors"}
    assert citation["license"] in README
    paper = citation["preferred-citation"]
    assert paper.keys() >= {"type", "title", "authors"}
    assert f"{{{paper['title']}}}" in README
    assert f"{{{paper['year']}}}" in README
    people = [f"{person['family-names']}, {person['given-names']}" for person in paper["authors"]]
    shown = re.sub(r"\{\\['~](\w)\}", r"\1", re.findall(r"author += \{(.+)\}", README)[0])
    ascii_only = unicodedata.normalize("NFKD", " and ".join(people)).encode("ascii", "ignore")
    assert shown == ascii_only.decode()


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    build = pytest.importorskip("mkdocs.commands.build")
    from mkdocs.config import load_config

    build.build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path)))  # strict
    for name in DOCUMENTS:
        page = tmp_path / name.replace("README.md", "index.md").replace(".md", ".html")
        content = page.read_text()
        assert re.findall(r"<(?:script|img|link)[^>]+(?:src|href)=\"?https?:", content) == []
        # Lists and tables that only GitHub takes for such.
        assert re.findall(r"<p>[^<]*\n(?:[-*] |\|)", content) == []


METHODS = {
    "linear (Adam)": "linear",
    "linear (L-BFGS)": "lbfgs",
    "5-NN": "knn5",
    "20-NN": "knn20",
    "fine-tuning": "finetune",
}


def test_the_table_of_results_has_the_numbers_of_its_file() -> None:
    content = (ROOT / "benchmarks/results/eurosat_methods_cpu.json").read_text()
    for title, method in METHODS.items():
        (row,) = (line for line in README.splitlines() if line.startswith(f"| {title}"))
        cells = row.split("|")[2:-1]
        shown = [float(cell.replace("*", "").split()[0]) for cell in cells]
        measured = [
            run["by_method"][method][share]["test/accuracy"]
            for encoder in ("random", "pretrain")
            for share in ("0.01", "0.1", "1")
            for run in json.loads(content)[encoder]
            if method in run["by_method"]
        ]
        assert shown == pytest.approx(measured, abs=0.051)


@pytest.mark.parametrize("row", ROWS)
def test_the_table_of_rivals_has_the_numbers_of_its_file(row: str) -> None:
    content = json.loads((ROOT / "benchmarks/results/rivals_cpu.json").read_text())
    (line,) = (line for line in README.splitlines() if line.startswith(f"| {ROWS[row][0]} |"))
    cells = [cell.strip() for cell in line.replace("*", "").split("|")[2:-1]]
    rates, ratios = content["samples_per_cpu_second"], content["ratios"][row]
    for column, cell in zip(COLUMNS, cells, strict=True):
        if row == "reference":
            assert float(cell) == pytest.approx(rates[f"{column}/{row}"]["median"], rel=0.01)
        elif column in ratios:
            assert float(cell) == pytest.approx(ratios[column], rel=0.01)
        else:
            assert cell == "-"


WALKS = re.findall(
    r"^### (.+) \(at most (\d+) files\)\n(.*?)(?=^#)",
    DOCUMENTS["docs/architecture.md"],
    flags=re.DOTALL | re.MULTILINE,
)


@pytest.mark.parametrize(("walk", "limit", "steps"), WALKS)
def test_walks_through_the_code_are_short(walk: str, limit: str, steps: str) -> None:
    files = re.findall(r"^\d+\. `([\w/.]+)`: ", steps, flags=re.MULTILINE)
    assert len(files) == len(re.findall(r"^\d+\. ", steps, flags=re.MULTILINE)) <= int(limit)
    assert all((ROOT / file).is_file() for file in files), walk
    assert len(files) == len(set(files))


def python_example(document: str) -> str:
    (example,) = (block for kind, block in BLOCK.findall(DOCUMENTS[document]) if kind == "python")
    return example


def test_the_example_embeds_a_picture_with_the_contract_of_its_encoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = python_example("README.md")
    monkeypatch.chdir(tmp_path)
    encoder = Encoder("resnet18").eval()
    content = {"state_dict": {f"encoder_q.{k}": v for k, v in encoder.state_dict().items()}}
    content["hyper_parameters"] = {"base_encoder": "resnet18", "input_spec": SECO_SPEC.to_dict()}
    torch.save(content, "last.ckpt")
    dn = np.random.default_rng(0).integers(0, 4000, (3, 32, 32), dtype=np.uint16)
    names = {"dn": dn}
    exec(example, names)
    # The contract as checkpoints/README.md writes it, band by band.
    x = np.empty(dn.shape, np.float32)
    for c, (low, high, mean, std) in enumerate(
        [(0, 129, 0.485, 0.229), (2, 103, 0.456, 0.224), (3, 88, 0.406, 0.225)]
    ):
        stored = np.floor(255 * np.minimum(dn[c] / 10000, 1))
        picture = np.floor(np.clip(255 * (stored - low) / (high - low), 0, 255))
        x[c] = (picture / 255 - mean) / std
    with torch.inference_mode():
        expected = encoder(torch.from_numpy(x)[None])
    torch.testing.assert_close(names["features"], expected, atol=1e-4, rtol=1e-4)


def test_the_example_of_the_data_sets_runs_on_a_miniature_earth(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = python_example("docs/data.md")
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    for name in ("seco", "eurosat", "bigearthnet", "oscd"):
        Path(f"data/mini_{name}").symlink_to(request.getfixturevalue(f"{name}_root"))
    names: dict[str, Any] = {}
    exec(example, names)
    assert Path("views.png").stat().st_size > 0
    assert [view.shape for view in (names["q"], names["k2"])] == [(3, 224, 224)] * 2
    assert names["image"].size == (32, 32)
    assert (names["patch"].size, names["classes"].shape) == ((120, 120), (19,))
    assert {names[name].size for name in ("before", "after", "change")} == {(96, 96)}
    batch, labels = next(iter(names["data"].train_dataloader()))
    assert (batch.shape, labels.shape) == ((4, 3, 32, 32), (4,))

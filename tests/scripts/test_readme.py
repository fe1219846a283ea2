"""Every command of the README parses, and every file that it names is there."""

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import main_bigearthnet
import main_eurosat
import main_oscd
import main_pretrain
from datasets.bands import RGB_BANDS
from datasets.collect import args as collect_args
from datasets.mini_earth import write_eurosat, write_seco
from models.backbones import Encoder
from utils.normalization import SECO_SPEC

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```\w*\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.splitlines() if line.startswith("python ")]
PARSERS = {
    "main_pretrain.py": main_pretrain.parse_args,
    "main_bigearthnet.py": main_bigearthnet.parse_args,
    "main_eurosat.py": main_eurosat.parse_args,
    "main_oscd.py": main_oscd.parse_args,
}


DOWNLOADER = "datasets/seco_downloader.py"


def test_the_readme_has_commands_of_every_script() -> None:
    named = {shlex.split(command)[1] for command in COMMANDS}
    assert named >= PARSERS.keys()
    assert PARSERS.keys() == {path.name for path in ROOT.glob("main_*.py")}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_of_the_readme_parse(command: str) -> None:
    _, script, *flags = shlex.split(command)
    if script == "-m":
        script = flags.pop(0).replace(".", "/") + ".py"
    assert (ROOT / script).is_file()
    if script in PARSERS:
        PARSERS[script](flags)
    elif script == DOWNLOADER:
        collect_args.parse_args(None, flags)
    else:
        source = (ROOT / script).read_text()
        for module in re.findall(
            r"^ *from ((?:utils|datasets)[\w.]+) import", source, flags=re.MULTILINE
        ):
            source += (ROOT / f"{module.replace('.', '/')}.py").read_text()
        assert all(f'"{flag}"' in source for flag in flags if flag.startswith("--"))


def test_make_targets_of_the_readme_exist() -> None:
    targets = set(re.findall(r"^make ([\w-]+)", README, flags=re.MULTILINE))
    makefile = (ROOT / "Makefile").read_text()
    assert targets >= {"demo", "test"}
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in targets)


@pytest.mark.parametrize("document", ["README.md", "checkpoints/README.md"])
def test_the_example_embeds_a_picture_with_the_contract_of_its_encoder(
    document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / document).read_text()
    examples = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (example,) = (each for each in examples if "load_encoder" in each)
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
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (example,) = re.findall(r"```python\n((?:(?!```).)*?SeasonalContrast.*?)```", README, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    Path("datasets").mkdir()
    write_seco(Path("datasets/mini_seco"), num_places=2, num_dates=3, size=24, bands=RGB_BANDS)
    write_eurosat(Path("datasets/mini_eurosat"), images_per_class=1, size=24)
    names: dict[str, Any] = {}
    exec(example, names)
    assert Path("views.png").stat().st_size > 0
    assert [view.shape for view in (names["q"], names["k2"])] == [(3, 224, 224)] * 2
    assert names["image"].size == (24, 24)


def test_links_of_the_readme_lead_to_files() -> None:
    links = re.findall(r"\]\(((?!https?://)[^)#]+)\)", README)
    assert links
    assert all((ROOT / link).exists() for link in links)


def test_every_row_of_the_differences_names_a_test_that_exists() -> None:
    rows = [
        line for line in (ROOT / "docs/differences.md").read_text().splitlines() if "<a id" in line
    ]
    assert rows
    for row in rows:
        file = None
        for name, test in re.findall(r"`([\w/]+\.py)?::(test_\w+)`", row.rsplit("|", 2)[1]):
            file = name or file
            assert file, row
            assert f"def {test}(" in (ROOT / "tests" / file).read_text(), f"{file}::{test}"

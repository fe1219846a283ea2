"""Flags from YAML files, good and bad, and the flags of runs as such files."""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import main_bigearthnet
import main_embed
import main_eurosat
import main_oscd
import main_pretrain
from utils.config_file import CONFIG, NOT_KEPT, with_config, write_config
from utils.errors import UserError
from utils.flags import Parser


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "run.yaml"


def test_the_command_line_wins_over_the_file_the_file_over_the_preset(config: Path) -> None:
    config.write_text(
        "preset: small_images\ndata_dir: pictures\nbands: [B8, B3, B2]\nschedule: []\n"
        "batch_size: 64\nlearning_rate: 1e-3\ncrop_size: 40\nrotate: false\ncompile: yes\n"
        "image_list: null\nlogger: none\nweight_decay: -.5\n"
    )
    args = main_pretrain.parse_args(["--config", str(config), "--batch_size", "8"])
    assert main_pretrain.parse_args(["--data_dir", "x"]).num_negatives != 4096  # of the preset
    expected: dict[str, Any] = {"data_dir": Path("pictures"), "bands": ["B8", "B3", "B2"]}
    expected |= {"schedule": [], "batch_size": 8, "learning_rate": 0.001, "crop_size": 40}
    expected |= {"rotate": False, "compile": True, "image_list": None, "logger": ["none"]}
    expected |= {"weight_decay": -0.5, "config": config, "num_negatives": 4096}
    assert vars(args) == vars(args) | expected


EMBED = "--data_dir x --save_path e.npz --precision 32"


@pytest.mark.parametrize(
    ("script", "flags"),
    [
        (main_pretrain, "--data_dir x --rotate --schedule --crop_scale 0.5 1 --gpus 0 --compile"),
        (main_pretrain, "--data_dir x --preset small_images --no-rotate --image_list ä.txt"),
        (main_eurosat, "--data_dir x --method linear knn --train_frac 0.1 1 --labels_per_class 3"),
        (main_eurosat, "--data_dir x --method finetune --num_seeds 2 --learning_rate 1e-30"),
        (main_bigearthnet, "--data_dir x --lmdb --freeze_backbone --num_classes 43"),
        (main_oscd, "--data_dir x --pos_weight auto --finetune_backbone --precision 16"),
        (main_embed, f"{EMBED} --bands B4 --neighbours -33.8,151.2 --scale 0.5"),
    ],
)
def test_the_flags_of_a_run_repeat_it(script: ModuleType, flags: str, tmp_path: Path) -> None:
    args = vars(script.parse_args(flags.split()))
    write_config(tmp_path, args)
    again = vars(script.parse_args(["--config", str(tmp_path / CONFIG)]))
    first, second = (json.loads(json.dumps(each, default=str)) for each in (args, again))
    for name in args.keys() - NOT_KEPT:
        assert first[name] == second[name], name


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("epochs: 3", "epochs is not a flag: did you mean max_epochs?"),
        ("batch-size: 3", "batch-size is not a flag: did you mean batch_size?"),
        ("qqqq: 3", "qqqq is not a flag"),
        ("5: 3", "5 is not a flag"),
        ("batch_size: many", "batch_size: invalid int value: 'many'; see --help"),
        ("batch_size: 2.5", "batch_size: invalid int value: '2.5'; see --help"),
        ("batch_size: true", "batch_size: invalid int value: 'true'; see --help"),
        ("batch_size: 1:30", "batch_size: invalid int value: '1:30'; see --help"),
        ("batch_size: [1, 2]", "batch_size must be a value, not ['1', '2']"),
        ("batch_size: {a: 1}", "batch_size must be a value, not {'a': '1'}"),
        ("bands: [[B4], B3]", "bands must be values, not [['B4'], 'B3']"),
        ("bands: [B4, --debug]", "bands: --debug is not a flag; see --help"),
        ("crop_scale: [0.5]", "crop_scale: expected 2 arguments; see --help"),
        ("compile: 1", "compile must be true or false, not 1"),
        ("rotate: maybe", "rotate must be true or false, not maybe"),
        ("rotate: [true]", "rotate must be true or false, not ['true']"),
        (
            "method: [linear]\nseed: 1\nepochs: 3\nlabels_per_class: 5",
            "method, epochs, labels_per_class are not flags of this script: correct or "
            "remove them, or run the script that the file is for",
        ),
        ("resume: auto", "resume belongs to one start: give it on the command line"),
        ("config: a.yaml", "config belongs to one start: give it on the command line"),
    ],
)
def test_a_wrong_line_is_named_with_file_and_key(config: Path, content: str, reason: str) -> None:
    config.write_text(content)
    with pytest.raises(UserError) as refused:
        main_pretrain.parse_args(["--data_dir", "x", "--config", str(config)])
    assert str(refused.value) == f"{config}: {reason}"


@pytest.mark.parametrize(
    ("content", "flags"),
    [
        ("seed: 010", "--seed 010"),
        ("batch_size: 1_0", "--batch_size 1_0"),
        ("weight_decay: 1e-3\nlearning_rate: .5", "--weight_decay 1e-3 --learning_rate .5"),
        ("image_list: on\nlog_dir: no", "--image_list on --log_dir no"),
        ("image_list: 2026-11-29\nbands: [ON, =]", "--image_list 2026-11-29 --bands ON ="),
        ("image_list: '~'\nrotate: off\nseed: ~", "--image_list ~ --no-rotate"),
        ("compile: On\nrotate: FALSE", "--compile --no-rotate"),
    ],
)
def test_a_config_means_what_its_flags_mean(config: Path, content: str, flags: str) -> None:
    config.write_text(content)
    read = vars(main_pretrain.parse_args(["--data_dir", "x", "--config", str(config)]))
    expected = vars(main_pretrain.parse_args(["--data_dir", "x", *flags.split()]))
    assert read == expected | {"config": config}


def test_a_second_file_is_refused(config: Path) -> None:
    with pytest.raises(UserError) as refused:
        with_config(Parser(), ["--config", str(config), "--seed", "1", "--config=b.yaml"])
    assert str(refused.value) == (
        f"--config takes one file, not {config} and b.yaml: join them, or name one"
    )


def test_an_unknown_choice_is_named_with_file_and_key(config: Path) -> None:
    config.write_text("lr_schedule: linear")
    with pytest.raises(UserError, match=r"run\.yaml: lr_schedule: invalid choice: 'linear'"):
        main_pretrain.parse_args(["--data_dir", "x", "--config", str(config)])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "holds no flags: write lines of NAME: VALUE"),
        ("- batch_size", "holds no flags"),
        ("a: &a [1]\nb: *a", "cannot be read as YAML, it has an alias (*): correct it"),
        ("seed: 1\nseed: 2", "cannot be read as YAML, it has seed twice: correct it"),
        ("seed: !!python/object/apply:os.system [touch x]", "it has a type"),
        ("rotate: !!bool true", "it has a type (tag:yaml.org,2002:bool): correct it"),
        ("[" * 30_000, "cannot be read as YAML"),
        ("a: [1", "cannot be read as YAML"),
        ("#" * 2**17, "131,072 bytes, more than the 65,536 of any such file"),
        ("\udcff", "is not a text in UTF-8: save it with this encoding"),
    ],
)
def test_a_file_of_something_else_is_refused(config: Path, content: str, reason: str) -> None:
    config.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises((UserError, OSError)) as refused:
        with_config(Parser(), ["--config", str(config)])
    assert str(config) in str(refused.value)
    assert reason in str(refused.value)


@given(text=st.text(st.sampled_from("abseed:-[]{}&*!|>'\"#%@ \n\t1.~?,"), max_size=40))
def test_any_text_is_read_or_refused(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    config = tmp_path_factory.getbasetemp() / "any.yaml"
    config.write_text(text)
    parser = Parser()
    parser.add_argument("--seed", type=int)
    try:
        words = with_config(parser, ["--config", str(config)])
    except UserError:
        return
    assert words == ["--config", str(config)] or words[0].startswith("--seed=")

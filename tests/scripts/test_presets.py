"""Presets against command lines that restate their sources."""

import pytest

from main_pretrain import parse_args
from models.presets import PRESETS

# Of ServiceNow/seasonal-contrast: the defaults of main_pretrain.py and models/moco2_module.py, and
# of SeasonalContrastMultiAug in datasets/seco_dataset.py.
ORIGINAL = (
    "--data_mode seco --max_epochs 200 --schedule 120 160 --lr_schedule step --warmup_epochs 0 "
    "--base_encoder resnet18 --emb_dim 128 --num_negatives 16384 --encoder_momentum 0.999 "
    "--softmax_temperature 0.07 --learning_rate 0.03 --momentum 0.9 --weight_decay 1e-4 "
    "--batch_size 256 --bands B4 B3 B2 --crop_size 224 --crop_scale 0.2 1 --jitter_prob 0.8 "
    "--color_jitter 0.4 0.4 0.4 0.1 --grayscale_prob 0.2 --blur_prob 0.5 --no-rotate"
)
SOURCES = {
    "seco_1m": "",
    # Issue 11 of the original: epochs of the released checkpoint; README of CACo: its schedule.
    "seco_100k": "--max_epochs 1000 --schedule 600 800",
    "paper": "--protocol paper",
    # PlekhanovaElena/ssl4eco, pretraining/README.md: --bands B9 --batch-size 256 --epochs 100
    # --moco-t 0.2 --moco-k 65536, and the rest as its pretrain_seco_3heads.py has it, whose
    # RandomBrightness(0.4) and RandomContrast(0.4) are all of its jitter.
    "seco_eco": "--bands B2 B3 B4 B5 B6 B7 B8 B8A NDVI --batch_size 256 --max_epochs 100 "
    "--softmax_temperature 0.2 --num_negatives 65536 --base_encoder resnet50 "
    "--color_jitter 0.4 0.4 0 0",
    # docs/training.md, "Small images".
    "small_images": "--data_mode moco --num_negatives 4096 --softmax_temperature 0.2 "
    "--encoder_momentum 0.99 --batch_size 128 --lr_schedule cosine --warmup_epochs 1 "
    "--learning_rate 0.06 --max_epochs 30 --crop_size 48 --color_jitter 0.4 0.4 0.4 0 "
    "--grayscale_prob 0.1 --blur_prob 0 --rotate",
}


def flags_of(line: str) -> dict[str, object]:
    args = vars(parse_args(["--data_dir", "x", *line.split()]))
    return {name: value for name, value in args.items() if name != "preset"}


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_is_the_command_line_of_its_source(preset: str) -> None:
    assert flags_of(f"--preset {preset}") == flags_of(f"{ORIGINAL} {SOURCES[preset]}")


def test_a_name_of_before_is_that_of_now() -> None:
    assert parse_args(["--data_dir", "x", "--preset", "seco"]).preset == "seco_1m"


def test_without_a_preset_the_defaults_are_those_of_the_original() -> None:
    assert flags_of("") == flags_of(ORIGINAL)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_flag_wins_over_its_preset(preset: str) -> None:
    given = (
        "--data_mode moco_tp --max_epochs 7 --schedule 5 --base_encoder resnet34 --bands B8 B4 "
        "--softmax_temperature 0.5 --num_negatives 512 --color_jitter 0 0 0 0 --rotate "
        "--protocol corrected"
    )
    found = flags_of(f"--preset {preset} {given}")
    assert (found["data_mode"], found["max_epochs"], found["schedule"]) == ("moco_tp", 7, [5])
    assert (found["base_encoder"], found["bands"]) == ("resnet34", ["B8", "B4"])
    assert (found["softmax_temperature"], found["num_negatives"]) == (0.5, 512)
    assert (found["color_jitter"], found["rotate"]) == ([0, 0, 0, 0], True)
    assert found["protocol"] == "corrected"
    assert not flags_of(f"--preset {preset} --no-rotate")["rotate"]

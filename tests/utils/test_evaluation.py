"""What the downstream scripts export, read back."""

import resource
from argparse import Namespace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from utils.errors import UserError
from utils.evaluation import (
    add_evaluation_args,
    check_evaluation_flags,
    input_norm,
    print_table,
    save_predictions,
    seeds,
    summarise,
)
from utils.flags import Parser
from utils.plots import plot_label_curve, plot_per_class
from utils.report import new_run_dir

NAMES = ["Ärea_1", "b", "c"]
TARGETS, SCORES = torch.tensor([2, 0, 1]), torch.rand(3, 4)
EMBEDDINGS = torch.randn(3, 5)


def test_npz_predictions_come_back_without_pickles(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "p.npz"
    save_predictions(path, NAMES, TARGETS, SCORES, EMBEDDINGS)
    content = np.load(path, allow_pickle=False)
    assert content["names"].tolist() == NAMES
    assert np.array_equal(content["targets"], TARGETS)
    assert np.array_equal(content["scores"], SCORES)
    assert np.array_equal(content["embeddings"], EMBEDDINGS)
    assert [file.name for file in path.parent.iterdir()] == ["p.npz"]


def test_parquet_predictions_come_back(tmp_path: Path) -> None:
    labels = torch.tensor([[1, 0], [0, 0], [1, 1]])
    save_predictions(tmp_path / "p.parquet", NAMES, labels, SCORES)
    table = pq.read_table(tmp_path / "p.parquet").to_pydict()
    assert table["names"] == NAMES
    assert table["targets"] == labels.tolist()
    assert table["scores"] == SCORES.tolist()


def flags(*argv: str) -> Namespace:
    parser = Parser()
    add_evaluation_args(parser)
    return parser.parse_args(argv)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--num_seeds", "0"], "--num_seeds must be above 0"),
        (["--train_frac", "0.1", "0"], "--train_frac is a share"),
        (["--train_frac", "0.1", "0.1"], "names a share twice"),
        (["--val_frac", "1.1"], "--val_frac is a share"),
        (["--save_predictions", "p.csv"], r"p\.csv must end in \.npz or \.parquet"),
    ],
)
def test_bad_flags_are_named(argv: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_evaluation_flags(flags(*argv))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("folder.npz", r"folder\.npz is a folder: name a file"),
        ("file/p.npz", r"file/p\.npz cannot be written: Not a directory"),
        ("n" * 251 + ".npz", "cannot be written: File name too long"),
    ],
)
def test_predictions_that_cannot_be_written_are_refused_before_the_work(
    tmp_path: Path, path: str, message: str
) -> None:
    (tmp_path / "folder.npz").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=message):
        check_evaluation_flags(flags("--save_predictions", str(tmp_path / path)))


def test_the_check_leaves_nothing_and_the_last_seed_must_exist(tmp_path: Path) -> None:
    args = flags("--save_predictions", str(tmp_path / "deep" / "p.npz"))
    args.seed = 2**32 - args.num_seeds
    check_evaluation_flags(args)
    assert list(tmp_path.iterdir()) == []
    args.seed += 1
    with pytest.raises(UserError, match=r"must be below 2\*\*32"):
        check_evaluation_flags(args)


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_a_file_that_does_not_fit_is_named_and_keeps_the_old_one(
    tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"p{suffix}"
    path.write_text("old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(UserError, match=rf"cannot write .*p\{suffix}.*"):
            save_predictions(path, NAMES, TARGETS, SCORES)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]


def test_the_protocol_chooses_the_normalisation_that_was_not_given() -> None:
    assert input_norm(Namespace(input_norm=None, protocol="paper")) == "paper"
    assert input_norm(Namespace(input_norm=None, protocol="corrected")) == "auto"
    assert input_norm(Namespace(input_norm="none", protocol="paper")) == "none"
    assert list(seeds(Namespace(seed=5, num_seeds=3))) == [5, 6, 7]


def test_a_summary_has_mean_deviation_values_and_interval() -> None:
    assert summarise("a", [1.0, 2.0, 6.0])["a_std"] == pytest.approx(7**0.5)  # (4 + 1 + 9) / 2
    assert summarise("a", [1.5]) == {"a": 1.5, "a_std": None, "a_per_seed": [1.5]}
    metrics = summarise("test/map_micro", [1.0, 3.0], (0.5, 3.5))
    assert metrics == {
        "test/map_micro": 2.0,
        "test/map_micro_std": pytest.approx(2**0.5),
        "test/map_micro_per_seed": [1.0, 3.0],
        "test/map_micro_interval": [0.5, 3.5],
    }


def test_one_table_has_a_line_for_each_metric_and_result(
    capsys: pytest.CaptureFixture[str],
) -> None:
    linear = summarise("val/a", [1.0, 3.0]) | summarise("test/a", [27.25, 30.0], (22.74, 31.76))
    knn = summarise("test/a", [12.0])  # it chooses nothing on val
    rows = [
        ({"method": "linear", "labels": "60"}, linear),
        ({"method": "5-NN", "labels": "1,234"}, knn),
    ]
    print_table(rows, ["val/a", "test/a", "absent"])
    assert capsys.readouterr().out.splitlines() == [
        "metric  method  labels  mean %  deviation   95 % interval  per seed",
        "val/a   linear      60    2.00       1.41               -  1.00 3.00",
        "test/a  linear      60   28.62       1.94  22.74 to 31.76  27.25 30.00",
        "test/a  5-NN     1,234   12.00          -               -  12.00",
    ]


def test_runs_that_start_at_once_get_folders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "name" / "version_7").mkdir(parents=True)
    (tmp_path / "name" / "version_old").mkdir()
    assert new_run_dir(tmp_path, "name").name == "version_8"
    seen = list((tmp_path / "name").glob("version_7"))  # by a run that looked just before
    monkeypatch.setattr(Path, "glob", lambda *_: seen)
    assert new_run_dir(tmp_path, "name").name == "version_9"


def test_pictures_of_curves_and_classes_are_drawn(tmp_path: Path) -> None:
    curves: dict[str, dict[float, tuple[float, float | None]]] = {
        "linear": {0.01: (40.0, 2.0), 0.1: (60.0, 1.0)},
        "5-NN": {0.1: (50.0, None)},
    }
    plot_label_curve(tmp_path / "curve.png", curves, "accuracy in percent")
    plot_per_class(tmp_path / "classes.png", {"Sea": 99.0, "Beach": float("nan")}, "AP")
    for name in ("curve.png", "classes.png"):
        assert np.asarray(Image.open(tmp_path / name).convert("L")).std() > 5


@pytest.mark.usefixtures("laid_out")
def test_neither_title_nor_names_of_a_picture_are_cut_off(tmp_path: Path) -> None:
    values = {"Land with " * 6 + "trees": 100.0, "Sea": 0.0, "Beach": 50.0}
    plot_per_class(tmp_path / "classes.png", values, "A title of many words, " * 6)
    picture = np.asarray(Image.open(tmp_path / "classes.png").convert("L"))
    for edge in (picture[0], picture[-1], picture[:, 0], picture[:, -1]):
        assert edge.min() == 255

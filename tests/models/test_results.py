"""Results of classifiers against scikit-learn and slow loops: numbers, lines, pictures, files."""

import resource
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn import metrics as sk
from torch import Tensor

from models import result_views
from models.result_views import (
    print_results,
    print_table,
    save_predictions,
    write_errors,
    write_pictures,
)
from models.results import measure, measure_batches, summarise
from utils.errors import UserError
from utils.input_spec import DataSpec, InputSpec, input_transform
from utils.metrics import (
    RESAMPLES,
    LabelDecisions,
    RankedScores,
    bootstrap_intervals,
    detection_scores,
    map_micro,
)
from utils.probe_data import ProbeData, splits_in_memory
from utils.report import new_run_dir

CLASSES = ["a", "b", "c", "d"]


@pytest.fixture(autouse=True)
def _all_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("utils.metrics.RESAMPLES", RESAMPLES)


def labels_and_scores(count: int = 40, runs: int = 2) -> tuple[Tensor, Tensor]:
    """Labels with an unknown class, and scores with ties: (N, 4) and (S, N, 4)."""
    targets = (torch.rand(count, 4) < torch.tensor([0.5, 0.2, 0.1, 0.0])).to(torch.uint8)
    targets[0, :3] = 1
    return targets, (torch.randn(runs, count, 4) * 3).round() / 3


# --- metrics ----------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [None, 1, 4])  # few levels make many ties
def test_average_precision_is_scikit_learns_for_any_weights(levels: int | None) -> None:
    targets, scores = torch.rand(500, 7) < torch.linspace(0.05, 0.6, 7), torch.randn(500, 7)
    scores = scores if levels is None else (scores * levels).round() / levels
    slow = 100 * sk.average_precision_score(targets, scores, average="micro")
    expected = pytest.approx(slow, rel=0, abs=1e-10)  # 1e-12 of a share
    assert map_micro(targets.float(), scores.double()) == expected
    assert RankedScores(targets, scores).average_precision() == expected
    weights = torch.randint(3, (500,))
    repeated = (rows.repeat_interleave(weights, 0) for rows in (targets, scores))
    weighted = RankedScores(targets, scores).average_precision(weights)
    assert weighted == pytest.approx(map_micro(*repeated), rel=0, abs=1e-9)


def test_average_precision_without_positive_samples_is_not_a_number() -> None:
    targets, scores = torch.zeros(50), torch.randn(50)
    assert np.isnan(map_micro(targets, scores))
    assert np.isnan(RankedScores(targets, scores).average_precision())
    weights = torch.arange(50) % 2  # the only positive sample is not drawn
    assert np.isnan(RankedScores(torch.arange(50) == 0, scores).average_precision(weights))


def test_weighted_f1_is_that_of_repeated_samples() -> None:
    targets, scores = labels_and_scores(60)
    weights = torch.randint(3, (60,))
    repeated = (rows.repeat_interleave(weights, 0) for rows in (targets, scores[0] > 0))
    expected = LabelDecisions(*repeated).f1()
    found = LabelDecisions(targets, scores[0] > 0).f1(weights)
    assert found == pytest.approx(expected, rel=0, abs=1e-9)


def test_scores_of_a_detection_are_scikit_learns() -> None:
    truth, found = torch.rand(300) < 0.2, torch.rand(300) < 0.3
    pairs = ((truth, found), (~truth, found), (truth, ~found))
    ours = detection_scores(*(int((one & other).sum()) for one, other in pairs))
    expected = {
        "precision": sk.precision_score(truth, found),
        "recall": sk.recall_score(truth, found),
        "f1": sk.f1_score(truth, found),
        "iou": sk.jaccard_score(truth, found),
    }
    assert ours == pytest.approx({name: 100 * value for name, value in expected.items()})
    assert detection_scores(0, 0, 0) == dict.fromkeys(expected, 0.0)


def test_interval_of_a_mean_is_that_of_the_normal_law_and_of_its_seed() -> None:
    values = torch.randn(2000, dtype=torch.float64)

    def mean(weights: Tensor) -> list[float]:
        return [float(values @ weights.double() / weights.sum())]

    (first,), (again,), (other,) = (bootstrap_intervals(mean, 2000, seed) for seed in (1, 1, 2))
    margin = 1.96 * float(values.std()) / 2000**0.5
    assert first[0] == pytest.approx(float(values.mean()) - margin, abs=0.25 * margin)
    assert first[1] == pytest.approx(float(values.mean()) + margin, abs=0.25 * margin)
    assert first == again != other


# --- one class per sample ---------------------------------------------------------------------


def test_accuracies_have_the_interval_of_their_mean() -> None:
    labels, scores = torch.arange(400) % 4, torch.randn(3, 400, 4)
    scores[..., 0] += 0.5
    both = {"val": labels, "test": labels}
    metrics = measure(both, {"val": scores, "test": scores}, CLASSES, interval_seed=0)
    right = (scores.argmax(-1) == labels).double()
    assert metrics["test/accuracy_per_seed"] == pytest.approx((100 * right.mean(1)).tolist())
    mean, deviation = 100 * right.mean().item(), 100 * right.mean(0).std().item() / 400**0.5
    margin = 1.96 * deviation
    assert metrics["test/accuracy_interval"] == pytest.approx([mean - margin, mean + margin], abs=1)
    assert "val/accuracy_interval" not in metrics


def test_recall_and_confusion_are_scikit_learns() -> None:
    labels, scores = torch.arange(90) % 3, torch.randn(2, 90, 4)
    metrics = measure({"test": labels}, {"test": scores}, ["a", "b", "c", "never"], 0)
    expected = sum(sk.confusion_matrix(labels, each.argmax(1), labels=range(4)) for each in scores)
    assert torch.equal(torch.tensor(metrics["test/confusion"]), torch.tensor(expected / 2))
    recalls = [
        sk.recall_score(labels, each.argmax(1), labels=[0, 1, 2], average=None) for each in scores
    ]
    assert metrics["test/recall"].keys() == {"a", "b", "c"}
    found = list(metrics["test/recall"].values())
    assert found == pytest.approx(list(100 * (recalls[0] + recalls[1]) / 2))


# --- several labels per sample ----------------------------------------------------------------


@pytest.mark.difference("ben-map")
def test_metrics_are_those_of_scikit_learn_for_every_run() -> None:
    targets, scores = labels_and_scores()
    found = measure({"val": targets}, {"val": scores}, CLASSES, 0)
    for run, each in enumerate(scores):
        known = sk.average_precision_score(targets[:, :3], each[:, :3], average="macro")
        expected = {
            "map_micro": sk.average_precision_score(targets, each, average="micro"),
            "map_macro": known,
            "f1_micro": sk.f1_score(targets, each > 0, average="micro"),
            "f1_macro": sk.f1_score(targets, each > 0, average="macro", zero_division=0),
        }
        for name, value in expected.items():
            assert found[f"val/{name}_per_seed"][run] == pytest.approx(100 * value, abs=1e-9)
    assert "val/map_micro_interval" not in found


def test_interval_surrounds_the_mean_and_narrows_with_samples() -> None:
    widths = []
    for count in (60, 960):
        targets, _ = labels_and_scores(count)
        scores = targets + torch.randn(2, count, 4)
        found = measure({"test": targets}, {"test": scores}, CLASSES, 1)
        for name in ("map_micro", "map_macro", "f1_micro", "f1_macro"):
            low, high = found[f"test/{name}_interval"]
            assert low < found[f"test/{name}"] < high
        low, high = found["test/map_micro_interval"]
        widths.append(high - low)
    assert widths[1] < 0.5 * widths[0]


def test_a_label_that_a_draw_lacks_counts_with_its_value_over_the_whole_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each interval again, from scikit-learn's value of every class in every draw."""
    monkeypatch.setattr("utils.metrics.RESAMPLES", 40)
    targets, _ = labels_and_scores(9)
    targets[:, 2] = torch.arange(9) == 4  # a third of the draws have no sample of it
    scores = targets * 0.7 + torch.randn(1, 9, 4)
    found = measure({"test": targets}, {"test": scores}, CLASSES, 5)
    known, predicted = targets[:, :3].numpy(), (scores[0] > 0).numpy()
    generator, drawn, num_lost = torch.Generator().manual_seed(5), [], 0
    for _ in range(40):
        rows = torch.randint(9, (9,), generator=generator)
        values = []
        for label in range(3):
            some = rows if known[rows, label].any() else torch.arange(9)
            num_lost += some is not rows
            ap = sk.average_precision_score(known[some, label], scores[0][some, label])
            values.append((ap, sk.f1_score(known[some, label], predicted[some, label])))
        ap, f1 = np.array(values).T
        drawn.append((ap.mean(), f1.sum() / 4))  # the fourth class has no samples
    assert num_lost > 40 / 5
    ends = 100 * np.quantile(drawn, [0.025, 0.975], axis=0)
    for name, interval in zip(("map_macro", "f1_macro"), ends.T, strict=True):
        assert found[f"test/{name}_interval"] == pytest.approx(list(interval))
        assert interval[0] <= found[f"test/{name}"] <= interval[1]


def test_precision_per_class_is_none_where_a_class_has_no_sample() -> None:
    targets, scores = labels_and_scores()
    found = measure({"test": targets}, {"test": scores}, CLASSES, 0)["test/ap_per_class"]
    assert found["d"] is None
    runs = [sk.average_precision_score(targets[:, 1], each[:, 1]) for each in scores]
    assert found["b"] == pytest.approx(100 * np.mean(runs), abs=1e-9)


def test_batch_means_drop_the_rest_and_rank_float32_probabilities() -> None:
    targets, scores = labels_and_scores(count=11)
    scores = scores * 20  # many probabilities are exactly 1
    found = measure_batches(targets, scores, 4)["val/map_micro_batch_mean_per_seed"]
    for run, each in enumerate(torch.sigmoid(scores)):
        parts = [
            sk.average_precision_score(targets[part], each[part], average="micro")
            for part in (slice(0, 4), slice(4, 8))
        ]
        assert found[run] == pytest.approx(100 * np.mean(parts), abs=1e-9)
    labels = torch.arange(11) % 4
    right = (scores[0].argmax(1) == labels).double()
    accuracy = measure_batches(labels, scores[:1], 4)["val/accuracy_batch_mean"]
    assert accuracy == pytest.approx(100 * right[:8].mean().item())


# --- lines, pictures and files ----------------------------------------------------------------


def test_a_summary_has_mean_deviation_values_and_interval() -> None:
    assert summarise("a", [1.5]) == {"a": 1.5, "a_std": None, "a_per_seed": [1.5]}
    assert summarise("b", [1.0, 2.0, 6.0], (0.5, 3.5)) == {
        "b": 3.0,
        "b_std": pytest.approx(7**0.5),  # (4 + 1 + 9) / 2
        "b_per_seed": [1.0, 2.0, 6.0],
        "b_interval": [0.5, 3.5],
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


def results(multi_label: bool) -> dict[str, Any]:
    """Results of two methods on two shares; the first one's larger share is on top."""
    targets, scores = labels_and_scores()
    found: dict[str, Any] = {"linear": {}, "knn5": {}}
    for shares in found.values():
        for share, count in (("0.1", 123), ("1", 1234)):
            own = targets if multi_label else targets.argmax(1)
            shares[share] = measure({"test": own}, {"test": scores + targets}, CLASSES, 0)
            shares[share]["num_labelled"] = count
            scores = scores.flip(1)
    shown = found["linear"]["1"] | {"method": "linear", "classes": CLASSES}
    return shown | {"by_method": found}


@pytest.mark.parametrize(
    ("multi_label", "metric", "of_classes", "last", "picture"),
    [
        (False, "accuracy", "test recall", "c", "confusion.png"),
        (True, "map_micro", "test average precision", "d", "average_precision.png"),
    ],
)
def test_results_are_printed_and_drawn(
    multi_label: bool,
    metric: str,
    of_classes: str,
    last: str,
    picture: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    metrics = results(multi_label)
    print_results(metrics)
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in lines if line.startswith(f"test/{metric}")]
    assert [row[1:3] for row in rows] == [
        [method, labels] for method in ("linear", "knn5") for labels in ("123", "1,234")
    ]
    assert rows[1][3] == f"{metrics[f'test/{metric}']:.2f}"
    assert f"{of_classes}, linear, 1,234 labels" in lines  # once, of the method on top
    assert lines[-1].split()[0] == last
    write_pictures(tmp_path, metrics, "title")
    assert sorted(path.name for path in tmp_path.iterdir()) == [picture, "label_efficiency.png"]
    for path in tmp_path.iterdir():
        assert np.asarray(Image.open(path).convert("L")).std() > 5


@pytest.mark.parametrize(
    ("multi_label", "curves"),
    [
        (False, ["linear", "knn5"]),
        (True, [f"{m}, test/map_{a}" for m in ("linear", "knn5") for a in ("micro", "macro")]),
    ],
)
def test_pictures_name_what_they_show(
    multi_label: bool, curves: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recalls of one method were once shown under the accuracy of another."""
    drawn: dict[str, Any] = {}
    for name in ("plot_confusion", "plot_per_class", "plot_label_curve"):
        keep = lambda *args, name=name: drawn.update({name: args})  # noqa: E731
        monkeypatch.setattr(result_views, name, keep)
    metrics = results(multi_label)
    write_pictures(tmp_path, metrics, "EuroSAT")
    value = metrics["test/map_micro" if multi_label else "test/accuracy"]
    title = drawn["plot_per_class" if multi_label else "plot_confusion"][-1]
    name = "micro mAP" if multi_label else "accuracy"
    assert title == f"EuroSAT, linear, 1,234 labels\ntest {name} {value:.1f} %"
    assert list(drawn["plot_label_curve"][1]) == curves
    assert drawn["plot_label_curve"][1][curves[0]].keys() == {0.1, 1.0}


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_most_confident_errors_come_first(
    multi_label: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(result_views, "plot_grid", lambda *args: drawn.append(args))
    targets = torch.tensor([0, 1, 2, 1])
    scores = torch.tensor([[1.0, 2.0, -1.0], [0.0, 3.0, 0.0], [9.0, 0.0, 1.0], [-1.0, -2.0, -9.0]])
    if multi_label:
        targets = torch.eye(3, dtype=torch.int64)[targets]
    pictures = torch.arange(4, dtype=torch.uint8)[:, None, None, None].expand(4, 3, 2, 2)
    transform = input_transform(InputSpec.of_pictures(), DataSpec.of_pictures("a"), "auto")
    splits = splits_in_memory(
        pictures, targets, list("abcd"), dict.fromkeys(["train", "test"], torch.arange(4))
    )
    data = ProbeData(transform, splits, ["sea", "lake", "land"])
    write_errors(tmp_path, data, "test", scores)
    ((path, shown, titles),) = drawn
    assert path == tmp_path / "errors.png"
    assert [picture[0, 0, 0] for picture in shown] == [2, 0, 3]
    expected = ["land\n→ sea", "sea\n→ lake", "lake\n→ sea"]
    if multi_label:
        expected = ["not there\nsea", "not there\nlake", "missed\nlake"]
    assert titles == expected
    write_errors(tmp_path, data, "test", 10 * torch.eye(3)[[0, 1, 2, 1]] - 5)
    assert len(drawn) == 1  # no error, no picture


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_predictions_come_back_and_replace_nothing_if_they_do_not_fit(
    tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / "deep" / f"p{suffix}"
    names, embeddings = ["Ärea_1", "b", "c"], torch.randn(3, 5)
    targets, scores = torch.tensor([[1, 0], [0, 0], [1, 1]]), torch.rand(3, 4)
    save_predictions(path, names, targets, scores, embeddings)
    if suffix == ".npz":
        saved = dict(np.load(path, allow_pickle=False))  # without pickles
    else:
        saved = {name: np.array(column) for name, column in pq.read_table(path).to_pydict().items()}
    assert saved["names"].tolist() == names
    for name, array in (("targets", targets), ("scores", scores), ("embeddings", embeddings)):
        assert np.array_equal(saved[name], array)
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(UserError, match=rf"cannot write .*p\{suffix}.*"):
            save_predictions(path, names, targets, scores)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [file.read_bytes() for file in path.parent.iterdir()] == [before]


def test_runs_that_start_at_once_get_folders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "name" / "version_7").mkdir(parents=True)
    (tmp_path / "name" / "version_old").mkdir()
    assert new_run_dir(tmp_path, "name").name == "version_8"
    seen = list((tmp_path / "name").glob("version_7"))  # by a run that looked just before
    monkeypatch.setattr(Path, "glob", lambda *_: seen)
    assert new_run_dir(tmp_path, "name").name == "version_9"

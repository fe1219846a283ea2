"""Methods on frozen features and through an encoder: rows, repetitions, what is scored."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Trainer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix, recall_score
from torch import Tensor

from models.backbones import Encoder
from models.finetuning import FineTuning
from models.picture_task import LabelledPictures, PictureTask, train_layer_each
from models.probes import (
    Labelled,
    Predictions,
    accuracy,
    draw_rows,
    probe_by_adam,
    probe_by_lbfgs,
    vote_of_neighbours,
)
from utils.classification import accuracies, by_class
from utils.errors import UserError
from utils.input_spec import DataSpec, InputSpec, input_transform

CLASSES = ("Forest", "River", "SeaLake")


def split_of(count: int) -> Labelled:
    labels = torch.arange(count) % 3
    features = torch.randn(count, 6)
    features[:, :3] += 2 * torch.eye(3)[labels]
    return Labelled(features, labels)


@pytest.fixture
def data() -> dict[str, Labelled]:
    return {"train": split_of(60), "val": split_of(21), "test": split_of(33)}


@pytest.mark.difference("eurosat-labels")
def test_rows_are_drawn_per_seed_from_every_class() -> None:
    labels = torch.arange(90) % 3
    shares = draw_rows(labels, CLASSES, [0, 1], frac=0.1, labels_per_class=None)
    counted = draw_rows(labels, CLASSES, [0, 1], frac=1.0, labels_per_class=4)
    for draws, count in ((shares, 3), (counted, 4)):
        assert all(labels[rows].bincount().tolist() == [count] * 3 for rows in draws)
        assert not torch.equal(draws[0].sort().values, draws[1].sort().values)
    whole = draw_rows(labels, CLASSES, [0, 1], frac=1.0, labels_per_class=None)
    assert all(torch.equal(rows, torch.arange(90)) for rows in whole)


@pytest.mark.parametrize(
    ("labels", "frac", "message"),
    [
        (torch.tensor([0, 0, 2, 2]), 1.0, "no sample of River: correct its list"),
        (torch.tensor([0] * 50 + [1] * 2 + [2] * 50), 0.1, "--train_frac 0.1 leaves .* River"),
    ],
)
def test_a_class_without_labels_is_an_error(labels: Tensor, frac: float, message: str) -> None:
    with pytest.raises(UserError, match=message):
        draw_rows(labels, CLASSES, [0], frac=frac, labels_per_class=None)


@pytest.mark.difference("eurosat-methods")
def test_every_method_scores_both_held_out_sets(data: dict[str, Labelled]) -> None:
    rows = [torch.arange(0, 30), torch.arange(30, 60)]
    for predictions in (
        probe_by_adam(data, 3, rows, seeds=[0, 1], max_epochs=3, batch_size=8, learning_rate=0.05),
        probe_by_lbfgs(data, 3, rows),
        vote_of_neighbours(data, 3, rows, k=5),
    ):
        assert predictions.scores["val"].shape == (2, 21, 3)
        assert predictions.scores["test"].shape == (2, 33, 3)
        assert predictions.embeddings is data["test"].features
        for scores in predictions.scores["test"]:
            assert accuracy(data["test"].labels, scores) > 60
        assert not torch.equal(*predictions.scores["test"])  # other labels, another classifier


def test_only_the_labelled_rows_are_learned_from(data: dict[str, Labelled]) -> None:
    rows = torch.arange(0, 30)
    wrong = data["train"].labels.clone()
    wrong[30:] = 0
    spoiled = data | {"train": Labelled(data["train"].features, wrong)}
    few = data | {"train": Labelled(data["train"].features[:30], data["train"].labels[:30])}
    for method in (probe_by_lbfgs, lambda *a: vote_of_neighbours(*a, k=5)):
        expected = method(few, 3, [rows]).scores["test"]
        assert torch.equal(method(data, 3, [rows]).scores["test"], expected)
        assert torch.equal(method(spoiled, 3, [rows]).scores["test"], expected)


def test_what_nothing_random_decides_is_done_once(data: dict[str, Labelled]) -> None:
    rows = [torch.arange(60)] * 3
    for predictions in (probe_by_lbfgs(data, 3, rows), vote_of_neighbours(data, 3, rows, k=5)):
        assert predictions.scores["test"].shape == (1, 33, 3)
    trained = probe_by_adam(
        data, 3, rows, seeds=[0, 1, 2], max_epochs=1, batch_size=8, learning_rate=0.01
    )
    assert trained.scores["test"].shape == (3, 33, 3)
    assert trained.chosen == {"best_epochs": [1, 1, 1]}


def test_the_strength_of_lbfgs_is_the_one_that_it_names(data: dict[str, Labelled]) -> None:
    predictions = probe_by_lbfgs(data, 3, [torch.arange(60)])
    (strength,) = predictions.chosen["best_strengths"]
    features, labels = data["train"]
    mean, std = features.mean(0), features.std(0)
    model = LogisticRegression(C=strength, max_iter=2000).fit(((features - mean) / std), labels)
    expected = torch.from_numpy(model.predict((data["test"].features - mean) / std))
    agreement = (predictions.scores["test"][0].argmax(1) == expected).double().mean()
    assert agreement > 0.95


# --- through the encoder ----------------------------------------------------------------------


@pytest.fixture
def task() -> PictureTask:
    """24 pictures of three brightnesses."""
    labels = torch.arange(24) % 3
    images = (80 * labels[:, None, None, None] + torch.randint(60, (24, 3, 32, 32))).byte()
    transform = input_transform(InputSpec.of_pictures(), DataSpec.of_pictures("x"), "auto")
    names = [str(row) for row in range(24)]
    splits = {"train": torch.arange(12), "val": torch.arange(12, 18), "test": torch.arange(18, 24)}
    return PictureTask(Encoder("resnet18"), transform, images, names, labels, CLASSES, splits)


def make_trainer(max_epochs: int, folder: Path | None, *, seed: int, train_frac: float) -> Trainer:
    return Trainer(
        accelerator="cpu",
        max_epochs=max_epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )


def finetuned(task: PictureTask, seeds: Sequence[int], rows: Sequence[Tensor]) -> Predictions:
    tuning = FineTuning(
        task,
        seeds,
        make_trainer=make_trainer,
        max_epochs=2,
        batch_size=4,
        learning_rate=1e-3,
        embed=lambda encoder: encoder.eval()(task.transform.normalize(task.images[18:])).detach(),
    )
    return tuning(rows)


def test_pictures_are_given_with_label_and_position(task: PictureTask) -> None:
    some = task.pictures("train", torch.tensor([5, 2]))
    assert isinstance(some, LabelledPictures)
    assert len(some) == 2
    picture, label, position = some[1]
    assert torch.equal(picture, task.images[2])
    assert (int(label), position) == (2, 1)
    assert [int(task.pictures("val")[row][1]) for row in range(6)] == [0, 1, 2, 0, 1, 2]
    assert torch.equal(task.labels_of("test"), task.labels[18:])


def test_fine_tuning_repeats_with_its_seed_and_leaves_the_encoder(task: PictureTask) -> None:
    before = {name: tensor.clone() for name, tensor in task.encoder.state_dict().items()}
    first = finetuned(task, [0, 1], [torch.arange(12)] * 2)
    again = finetuned(task, [1], [torch.arange(12)])
    assert all(torch.equal(t, before[name]) for name, t in task.encoder.state_dict().items())
    assert first.scores["val"].shape == (2, 6, 3)
    torch.testing.assert_close(first.scores["test"][1:], again.scores["test"], rtol=0, atol=1e-5)
    assert not torch.equal(*first.scores["test"])
    assert set(first.chosen["best_epochs"]) <= {1, 2}
    frozen = task.encoder.eval()(task.transform.normalize(task.images[18:]))
    assert first.embeddings is not None
    assert (first.embeddings - frozen).abs().max() > 0.01


@pytest.mark.difference("eurosat-epoch")
def test_the_layer_of_the_original_drops_what_is_no_whole_batch(task: PictureTask) -> None:
    steps = []

    def counted(*args: Any, **kwargs: Any) -> Trainer:
        steps.append(make_trainer(*args, **kwargs))
        return steps[-1]

    predictions = train_layer_each(
        task,
        [torch.arange(11)],
        seeds=[0],
        make_trainer=counted,
        max_epochs=2,
        batch_size=4,
        learning_rate=1e-3,
    )
    assert steps[0].global_step == 2 * 2  # of 11 images, 8 count
    assert predictions.scores.keys() == {"val"}
    assert predictions.scores["val"].shape == (1, 6, 3)  # all of it
    assert predictions.chosen == {}


# --- results ----------------------------------------------------------------------------------


def test_accuracies_have_the_interval_of_their_mean() -> None:
    labels = torch.arange(400) % 4
    scores = torch.randn(3, 400, 4)
    scores[..., 0] += 0.5
    metrics = accuracies("test", labels, scores, interval_seed=0)
    right = [(values.argmax(1) == labels).double().mean().item() for values in scores]
    assert metrics["test/accuracy_per_seed"] == pytest.approx([100 * share for share in right])
    mean = sum(right) / 3
    low, high = metrics["test/accuracy_interval"]
    per_sample = (scores.argmax(-1) == labels).double().mean(0)
    deviation = 100 * per_sample.std().item() / 400**0.5
    assert (low, high) == pytest.approx(
        (100 * mean - 1.96 * deviation, 100 * mean + 1.96 * deviation), abs=0.8
    )
    assert "val/accuracy_interval" not in accuracies("val", labels, scores)


def test_recall_and_confusion_are_scikit_learns() -> None:
    labels, scores = torch.arange(90) % 3, torch.randn(2, 90, 4)
    metrics = by_class("test", labels, scores, ["a", "b", "c", "never"])
    expected = sum(confusion_matrix(labels, values.argmax(1), labels=range(4)) for values in scores)
    assert torch.equal(torch.tensor(metrics["test/confusion"]), torch.tensor(expected / 2))
    recalls = [
        recall_score(labels, values.argmax(1), labels=[0, 1, 2], average=None) for values in scores
    ]
    assert metrics["test/recall"].keys() == {"a", "b", "c"}
    assert list(metrics["test/recall"].values()) == pytest.approx(
        list(100 * (recalls[0] + recalls[1]) / 2)
    )

"""Methods on frozen features, of one class or several labels per sample, and fine-tuning runs."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pytorch_lightning import Trainer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from models.backbones import Encoder
from models.finetuning import FineTuning
from models.linear_probe import Labelled, Recipe
from models.probes import (
    STRENGTHS,
    Predictions,
    fit_logistic_sweep,
    knn_scores,
    probe_by_adam,
    probe_by_lbfgs,
    vote_of_neighbours,
)
from tests.references.plain_training import plain_trainer
from tests.references.probe_pictures import stacked
from utils.errors import UserError
from utils.input_spec import DataSpec, InputSpec, input_transform
from utils.metrics import accuracy, map_micro
from utils.probe_data import ProbeData, splits_in_memory

Method = Callable[[dict[str, Labelled], list[Tensor]], Predictions]
LABELS = torch.tensor([[1, 0, 0], [0, 1, 1], [0, 0, 1]])  # of each class


def split_of(count: int, multi_label: bool) -> Labelled:
    classes = torch.arange(count) % 3
    features = torch.randn(count, 6)
    features[:, :3] += 2 * torch.eye(3)[classes]
    return Labelled(features, LABELS[classes].float() if multi_label else classes)


@pytest.fixture(params=[False, True], ids=["classes", "labels"])
def data(request: pytest.FixtureRequest) -> dict[str, Labelled]:
    sizes = {"train": 60, "val": 21, "test": 33}
    return {name: split_of(count, request.param) for name, count in sizes.items()}


def methods(data: dict[str, Labelled]) -> Iterator[Method]:
    score = map_micro if data["val"].targets.ndim == 2 else accuracy
    recipe = Recipe(max_epochs=6, batch_size=8, learning_rate=0.05)

    def adam(data: dict[str, Labelled], rows: list[Tensor]) -> Predictions:
        return probe_by_adam(data, 3, rows, seeds=range(len(rows)), recipe=recipe, score=score)

    yield adam
    yield lambda data, rows: probe_by_lbfgs(data, 3, rows, score=score)
    yield lambda data, rows: vote_of_neighbours(data, 3, rows, k=5)


@pytest.mark.difference("eurosat-methods")
def test_every_method_scores_both_held_out_sets(data: dict[str, Labelled]) -> None:
    targets = data["test"].targets
    multi_label = targets.ndim == 2
    for method in methods(data):
        predictions = method(data, [torch.arange(0, 30), torch.arange(30, 60)])
        assert predictions.scores["val"].shape == (2, 21, 3)
        assert predictions.scores["test"].shape == (2, 33, 3)
        assert predictions.embeddings is data["test"].features
        for scores in predictions.scores["test"]:
            assert (map_micro if multi_label else accuracy)(targets, scores) > 60
            if multi_label:  # labels with a score above 0 are predicted
                assert ((scores > 0) == targets.bool()).double().mean() > 0.7
        assert not torch.equal(*predictions.scores["test"])  # other labels, another classifier
        # Without randomness, repetitions on the same rows run once.
        same = len(method(data, [torch.arange(60)] * 3).scores["test"])
        assert same == (3 if "best_epochs" in predictions.chosen else 1)
        del (without := dict(data))["test"]
        assert method(without, [torch.arange(60)]).embeddings is data["val"].features


def test_only_the_labelled_rows_are_learned_from(data: dict[str, Labelled]) -> None:
    rows = torch.arange(0, 30)
    wrong = data["train"].targets.clone()
    wrong[30:] = 0
    spoiled = data | {"train": Labelled(data["train"].features, wrong)}
    few = data | {"train": data["train"].take(rows)}
    for method in methods(data):
        expected = method(few, [rows]).scores["test"]
        assert torch.equal(method(data, [rows]).scores["test"], expected)
        assert torch.equal(method(spoiled, [rows]).scores["test"], expected)


@pytest.mark.parametrize(("select_epoch", "epoch"), [(True, 1), (False, 6)])
def test_the_epoch_is_chosen_on_val_alone(select_epoch: bool, epoch: int) -> None:
    features = torch.randn(200, 3)
    targets = (features > 0).float()
    data = {"train": Labelled(features, targets), "test": Labelled(features, targets)}
    data["val"] = Labelled(features, 1 - targets)  # what is learned makes it worse
    recipe = Recipe(6, 50, 0.1, milestones=[], select_epoch=select_epoch, standardise="none")
    rows = [torch.arange(200)]
    found = probe_by_adam(data, 3, rows, seeds=[0], recipe=recipe, score=map_micro)
    assert found.chosen == {"best_epochs": [epoch]}


# --- L-BFGS -----------------------------------------------------------------------------------


def standardised(features: Tensor, train: Tensor) -> np.ndarray:
    return ((features - train.mean(0)) / train.std(0)).numpy()


def test_two_classes_have_two_rows() -> None:
    features, labels = torch.randn(40, 5), torch.arange(40) % 2
    features[:, 0] += 3 * labels
    both = Labelled(features, labels)
    scores = fit_logistic_sweep(both, both, 2, accuracy)[0].scores(features)
    torch.testing.assert_close(scores[:, 0], -scores[:, 1])
    assert accuracy(labels, scores) > 80


def test_labels_have_a_binary_regression_each_and_one_strength() -> None:
    """Against scikit-learn, label by label; the strength has the best micro-AP on val."""
    train, val = split_of(90, multi_label=True), split_of(60, multi_label=True)
    fitted, strength = fit_logistic_sweep(train, val, 3, map_micro)
    inputs = standardised(train.features, train.features)
    held_out = standardised(val.features, train.features)
    found = {}
    for each in STRENGTHS:
        columns = [
            LogisticRegression(C=each, tol=1e-6, max_iter=2000)
            .fit(inputs, train.targets[:, label])
            .decision_function(held_out)
            for label in range(3)
        ]
        found[each] = np.stack(columns, 1)
    precisions = [average_precision_score(val.targets, s, average="micro") for s in found.values()]
    assert map_micro(val.targets, fitted.scores(val.features)) / 100 == pytest.approx(
        max(precisions), abs=0.005
    )
    ours = fitted.scores(val.features).numpy()
    assert np.abs(ours - found[strength]).max() < 0.05 * np.abs(ours).max()


def test_a_label_that_all_or_no_samples_have_is_a_constant() -> None:
    train = split_of(30, multi_label=True)
    train.targets[:, 0], train.targets[:, 1] = 0, 1
    fitted, _ = fit_logistic_sweep(train, train, 3, map_micro)
    scores = fitted.scores(train.features)
    assert scores[:, 0].unique().tolist() == pytest.approx([np.log(0.5 / 30.5)])
    assert scores[:, 1].unique().tolist() == pytest.approx([np.log(30.5 / 0.5)])
    assert len(scores[:, 2].unique()) == 30


# --- neighbours -------------------------------------------------------------------------------


def test_votes_are_scikit_learns() -> None:
    train, others = torch.randn(120, 6) + 4, torch.randn(50, 6) + 4
    labels = torch.arange(120) % 3
    center = train.mean(0)
    votes = {
        "classes": knn_scores(Labelled(train, labels), 3, 5, others).floor(),
        "labels": knn_scores(Labelled(train, F.one_hot(labels, 3)), 3, 5, others).floor() + 3,
    }
    reference = KNeighborsClassifier(5, metric="cosine").fit((train - center).numpy(), labels)
    shares = torch.from_numpy(reference.predict_proba((others - center).numpy()))
    for found in votes.values():  # of several labels, the share of the neighbours that have them
        assert torch.equal(found.long(), (5 * shares).round().long())


@pytest.mark.parametrize(("k", "needed"), [(5, 3), (4, 3)])
def test_a_label_is_predicted_if_more_than_half_of_the_neighbours_have_it(
    k: int, needed: int
) -> None:
    features = torch.randn(k, 4)
    for count in range(k + 1):
        targets = (torch.arange(k) < count).float()[:, None]
        found = knn_scores(Labelled(features, targets), 1, k, torch.randn(1, 4))
        assert (found > 0).item() == (count >= needed)


def test_similarity_decides_between_equal_votes_and_never_outvotes() -> None:
    features = torch.tensor([[1.0, 0.0], [0.9, 0.5], [0.5, 0.9], [-2.4, -1.4]])  # centre 0
    train = Labelled(features, torch.tensor([1, 0, 0, 0]))
    even = knn_scores(train, 2, 2, torch.tensor([[1.0, 0.1]]))
    assert even.argmax(1).item() == 1
    odd = knn_scores(train, 2, 3, torch.tensor([[1.0, 0.1]]))
    assert odd.argmax(1).item() == 0


# --- through the encoder ----------------------------------------------------------------------


@pytest.fixture
def encoder() -> Encoder:
    return Encoder("resnet18_slim")


@pytest.fixture
def pictures() -> ProbeData:
    """24 pictures of three brightnesses."""
    labels = torch.arange(24) % 3
    images = (80 * labels[:, None, None, None] + torch.randint(60, (24, 3, 32, 32))).byte()
    transform = input_transform(InputSpec.of_pictures(), DataSpec.of_pictures("x"), "auto")
    rows = {"train": torch.arange(12), "val": torch.arange(12, 18), "test": torch.arange(18, 24)}
    splits = splits_in_memory(images, labels, [str(row) for row in range(24)], rows)
    return ProbeData(transform, splits, ("a", "b", "c"))


def make_trainer(max_epochs: int, *_: Any, **__: Any) -> Trainer:
    return plain_trainer(None, max_epochs)


def finetuned(
    encoder: Encoder, pictures: ProbeData, seeds: Sequence[int], max_epochs: int = 1
) -> Predictions:
    recipe = Recipe(max_epochs, batch_size=4, learning_rate=1e-3)
    embed = partial(features, pictures)
    tuning = FineTuning(encoder, pictures, seeds, recipe, make_trainer, embed=embed)
    return tuning([torch.arange(12)] * len(seeds))


@torch.no_grad()
def features(pictures: ProbeData, encoder: Encoder) -> Tensor:
    return encoder.eval()(pictures.transform.normalize(stacked(pictures, "test")))


def test_fine_tuning_repeats_with_its_seed_and_leaves_the_encoder(
    encoder: Encoder, pictures: ProbeData
) -> None:
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    first, again = (finetuned(encoder, pictures, seeds) for seeds in ([0, 1], [1]))
    assert all(torch.equal(t, before[name]) for name, t in encoder.state_dict().items())
    assert first.scores["val"].shape == (2, 6, 3)
    torch.testing.assert_close(first.scores["test"][1:], again.scores["test"], rtol=0, atol=1e-5)
    assert not torch.equal(*first.scores["test"])
    assert first.embeddings is not None
    assert (first.embeddings - features(pictures, encoder)).abs().max() > 0.01


def test_the_best_epoch_of_fine_tuning_is_scored(
    encoder: Encoder, pictures: ProbeData, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores, seen = iter([1.0, 3.0, 3.0]), list[Tensor]()

    def score(self: ProbeData, targets: Tensor, logits: Tensor) -> float:
        seen.append(logits)
        return next(scores)

    monkeypatch.setattr(ProbeData, "score", score)
    found = finetuned(encoder, pictures, [0], max_epochs=3)
    assert found.chosen == {"best_epochs": [2]}
    torch.testing.assert_close(found.scores["val"][0], seen[1], rtol=0, atol=1e-4)


@pytest.mark.difference("eurosat-epoch")
def test_the_layer_of_the_original_drops_the_incomplete_batch(
    encoder: Encoder, pictures: ProbeData
) -> None:
    trainers = []

    def counted(*args: Any, **kwargs: Any) -> Trainer:
        trainers.append(make_trainer(*args, **kwargs))
        return trainers[-1]

    recipe = Recipe(2, 4, 1e-3, select_epoch=False, drop_last=True, freeze_backbone=True)
    train = FineTuning(encoder, pictures, [0], recipe, counted)
    predictions = train([torch.arange(11)])
    assert trainers[0].global_step == 2 * 2  # of 11 images, 8 count
    assert predictions.scores.keys() == {"val"}
    assert predictions.scores["val"].shape == (1, 6, 3)  # all of it


def test_a_batch_of_one_picture_cannot_be_normalised(encoder: Encoder, pictures: ProbeData) -> None:
    tuning = FineTuning(encoder, pictures, [0], Recipe(1, 8, 1e-3), make_trainer)
    with pytest.raises(UserError, match="1 labelled pictures are too few for 1 processes"):
        tuning([torch.arange(1)])


def test_pictures_are_given_with_label_and_position(pictures: ProbeData) -> None:
    train = pictures.splits["train"]
    some = train.take(torch.tensor([5, 2]))
    picture, label, position = some[1]
    assert len(some) == 2
    assert torch.equal(picture, train.pictures[2][0])
    assert (int(label), position) == (2, 1)
    prints = {train.identify(torch.tensor(rows)) for rows in ([5, 2], [2, 5], [5], [5, 3])}
    assert len(prints) == 4
    assert train.identify(torch.tensor([5, 2])) in prints

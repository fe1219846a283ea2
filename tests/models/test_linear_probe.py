"""The linear probe against autograd and a plain training loop."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.linear_probe import (
    Labelled,
    LinearClassifier,
    Recipe,
    drop_inputs,
    fit_linear_probe,
    loss_gradient,
)


def clouds(count: int, dim: int = 6, classes: int = 4) -> Labelled:
    """Overlapping Gaussian clouds, far from zero and of unequal scale."""
    labels = torch.arange(count) % classes
    centres = torch.randn(classes, dim, generator=torch.Generator().manual_seed(1))
    features = centres[labels] + torch.randn(count, dim)
    return Labelled(5 + features * torch.logspace(-1, 2, dim), labels)


def fit(
    train: Labelled, rows: Tensor | None = None, seed: int = 0, score: Any = None, **changes: Any
) -> tuple[LinearClassifier, int]:
    """Fit a probe; with a score, the first 20 samples choose its epoch."""
    recipe = Recipe(**({"max_epochs": 20, "batch_size": 16, "learning_rate": 1e-2} | changes))
    rows = torch.arange(len(train.features)) if rows is None else rows
    val = None if score is None else train.take(torch.arange(20))
    return fit_linear_probe(train, 4, rows, seed=seed, recipe=recipe, val=val, score=score)


@pytest.mark.parametrize("multi_label", [False, True])
def test_gradient_is_that_of_the_loss(multi_label: bool) -> None:
    weight = torch.randn(4, 7, requires_grad=True)  # (C, D + 1)
    inputs = torch.randn(5, 7)
    classes = torch.randint(4, (5,))
    targets = torch.randint(2, (5, 4)).float() if multi_label else F.one_hot(classes, 4).float()
    loss = F.multilabel_soft_margin_loss if multi_label else F.cross_entropy
    loss(inputs @ weight.T, targets).backward()
    assert weight.grad is not None
    found = loss_gradient(weight.detach(), inputs, targets, multi_label)
    torch.testing.assert_close(found, weight.grad)


@pytest.mark.difference("eurosat-standardisation")
def test_fit_agrees_with_a_plain_training_loop_of_torch() -> None:
    """The rate falls after 60 % and 80 % of the epochs; the last batch holds 2 of 50 samples."""
    features, labels = clouds(50)
    probe, epochs = fit(Labelled(features, labels), seed=3, max_epochs=5)

    generator = torch.Generator().manual_seed(3)
    inputs = (features - features.mean(0)) / features.std(0)
    start = torch.empty(4, 7).uniform_(-(6**-0.5), 6**-0.5, generator=generator)
    layer = nn.Linear(6, 4)
    layer.weight.data, layer.bias.data = start[:, :6].clone(), start[:, 6].clone()
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-2)
    for epoch in range(5):
        for group in optimizer.param_groups:
            group["lr"] = [1e-2, 1e-2, 1e-2, 1e-3, 1e-4][epoch]
        for rows in torch.randperm(50, generator=generator).split(16):
            optimizer.zero_grad()
            F.cross_entropy(layer(inputs[rows]), labels[rows]).backward()
            optimizer.step()

    assert epochs == 5
    torch.testing.assert_close(probe.weight[:, :6], layer.weight.detach(), rtol=0, atol=1e-4)
    torch.testing.assert_close(probe.weight[:, 6], layer.bias.detach(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("reference", ["labelled", "train"])
def test_only_standardisation_may_use_samples_without_labels(reference: str) -> None:
    train, rows = clouds(60), torch.arange(10, 40)
    hidden = Labelled(train.features.clone(), train.targets.clone())
    hidden.targets[40:] = 99
    if reference == "labelled":
        hidden.features[:10] = torch.nan
    found = [fit(each, rows, standardise=reference)[0] for each in (train, hidden)]
    assert torch.equal(found[0].weight, found[1].weight)
    used = train.features[rows] if reference == "labelled" else train.features
    torch.testing.assert_close(found[0].mean, used.mean(0))
    torch.testing.assert_close(found[0].std, used.std(0))


def test_dropout_leaves_features_out_and_keeps_their_expectation() -> None:
    batch = torch.ones(1000, 21)
    drop_inputs(batch, 0.2, torch.Generator().manual_seed(0))
    assert sorted(batch[:, :-1].unique().tolist()) == [0, 1.25]
    assert batch[:, :-1].mean().item() == pytest.approx(1, abs=0.02)
    assert (batch[:, -1] == 1).all()


def test_the_epoch_with_the_best_validation_score_is_kept() -> None:
    train = clouds(80)
    scores, seen = iter([0.1, 0.5, 0.2, 0.5, 0.3]), list[Tensor]()

    def score(targets: Tensor, logits: Tensor) -> float:
        assert torch.equal(targets, train.targets[:20])
        seen.append(logits.clone())
        return next(scores)

    probe, epoch = fit(train, max_epochs=5, score=score)
    assert epoch == 2  # the first of equal ones
    assert torch.equal(probe.scores(train.features[:20]), seen[1])
    last, _ = fit(train, max_epochs=5)
    assert torch.equal(last.scores(train.features[:20]), seen[4])


def test_a_constant_feature_is_harmless() -> None:
    train = clouds(80)
    train.features[:, 2] = 7.0
    probe, _ = fit(train)
    assert probe.weight.isfinite().all()
    assert probe.std[2] == 1  # another constant on test is not enlarged


def test_learning_rate_falls_at_60_and_80_percent_of_the_epochs() -> None:
    assert Recipe(100, 1, 1.0).falls == [60, 80]
    assert Recipe(7, 1, 1.0).falls == [4, 5]  # rounded down
    assert Recipe(7, 1, 1.0, milestones=[3]).falls == [3]

"""The probe against autograd, scikit-learn and itself; its metrics against counting."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from models.linear_probe import (
    FittedProbes,
    Validation,
    drop_inputs,
    fit_linear_probe,
    loss_gradient,
    milestones,
)
from utils.evaluation import mean_and_std
from utils.metrics import accuracy_percent, confusion_matrix


def clouds(count: int, dim: int = 6, classes: int = 4) -> tuple[Tensor, Tensor]:
    """Overlapping Gaussian clouds, far from zero and of unequal scale: features (N, D), labels."""
    labels = torch.arange(count) % classes
    centres = torch.randn(classes, dim, generator=torch.Generator().manual_seed(1))
    features = centres[labels] + torch.randn(count, dim)
    return 5 + features * torch.logspace(-1, 2, dim), labels


def fit(features: Tensor, labels: Tensor, **changes: object) -> FittedProbes:
    seeds = changes.get("seeds", [0])
    settings: dict[str, object] = {
        "seeds": [0],
        "rows": [torch.arange(len(features)) for _ in seeds],  # type: ignore[attr-defined]
        "validation": None,
        "max_epochs": 20,
        "batch_size": 16,
        "learning_rate": 1e-2,
    }
    return fit_linear_probe(features, labels, 4, **(settings | changes))  # type: ignore[arg-type]


def test_gradient_is_that_of_the_mean_cross_entropy() -> None:
    weight = torch.randn(3, 4, 7, requires_grad=True)  # (S, C, D + 1)
    inputs, labels = torch.randn(3, 5, 7), torch.randint(4, (3, 5))
    for probe in range(3):
        F.cross_entropy(inputs[probe] @ weight[probe].T, labels[probe]).backward()
    expected = weight.grad
    assert expected is not None
    torch.testing.assert_close(loss_gradient(weight.detach(), inputs, labels), expected)


@pytest.mark.difference("eurosat-standardisation")
def test_fit_agrees_with_a_plain_training_loop_of_torch() -> None:
    features, labels = clouds(50)  # the last batch of an epoch holds 2 of them
    probes = fit(features, labels, seeds=[3], max_epochs=5)

    generator = torch.Generator().manual_seed(3)
    inputs = (features - features.mean(0)) / features.std(0)
    start = torch.empty(4, 7).uniform_(-(6**-0.5), 6**-0.5, generator=generator)
    layer = torch.nn.Linear(6, 4)
    layer.weight.data, layer.bias.data = start[:, :6].clone(), start[:, 6].clone()
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-2)
    for epoch in range(5):
        for group in optimizer.param_groups:
            group["lr"] = [1e-2, 1e-2, 1e-2, 1e-3, 1e-4][epoch]
        for rows in torch.randperm(50, generator=generator).split(16):
            optimizer.zero_grad()
            F.cross_entropy(layer(inputs[rows]), labels[rows]).backward()
            optimizer.step()

    torch.testing.assert_close(probes.weight[0, :, :6], layer.weight.detach(), rtol=0, atol=1e-4)
    torch.testing.assert_close(probes.weight[0, :, 6], layer.bias.detach(), rtol=0, atol=1e-4)


def test_accuracy_is_that_of_logistic_regression() -> None:
    (features, labels), (others, answers) = clouds(800), clouds(2000)
    mean, std = features.mean(0), features.std(0)
    reference = LogisticRegression(C=1.0).fit(((features - mean) / std).numpy(), labels.numpy())
    expected = 100 * np.mean(reference.predict(((others - mean) / std).numpy()) == answers.numpy())
    predictions = fit(features, labels).logits(others)[0].argmax(1)
    assert accuracy_percent(answers, predictions) == pytest.approx(expected, abs=1.0)


def test_a_probe_does_not_depend_on_its_neighbours() -> None:
    features, labels = clouds(60)
    rows = [torch.randperm(60)[:40] for _ in range(3)]
    together = fit(features, labels, seeds=[5, 6, 7], rows=rows, dropout=0.5).weight
    alone = fit(features, labels, seeds=[6], rows=rows[1:2], dropout=0.5).weight
    torch.testing.assert_close(together[1], alone[0], rtol=0, atol=1e-5)
    assert (together[0] - together[1]).abs().max() > 1e-2


def test_units_and_offsets_of_features_do_not_matter() -> None:
    features, labels = clouds(80)
    scaled = fit(features * 4 - 8, labels).logits(features * 4 - 8)
    same = fit(features, labels).logits(features)
    assert torch.equal(same.argmax(-1), scaled.argmax(-1))
    raw = fit(features * 4 - 8, labels, standardise=False).logits(features * 4 - 8)
    assert not torch.equal(same.argmax(-1), raw.argmax(-1))


def test_gradient_of_labels_is_that_of_the_soft_margin_loss() -> None:
    weight = torch.randn(2, 4, 7, requires_grad=True)
    inputs, labels = torch.randn(2, 5, 7), torch.randint(2, (2, 5, 4)).float()
    for probe in range(2):
        logits = inputs[probe] @ weight[probe].T
        F.multilabel_soft_margin_loss(logits, labels[probe]).backward()
    expected = weight.grad
    assert expected is not None
    torch.testing.assert_close(loss_gradient(weight.detach(), inputs, labels), expected)


def test_dropout_leaves_features_out_and_keeps_their_expectation() -> None:
    batch = torch.ones(2, 500, 21)
    drop_inputs(batch, 0.2, [torch.Generator().manual_seed(seed) for seed in (0, 1)])
    features = batch[..., :-1]
    assert sorted(features.unique().tolist()) == [0, 1.25]
    assert features.mean().item() == pytest.approx(1, abs=0.02)
    assert (batch[..., -1] == 1).all()
    assert not torch.equal(batch[0], batch[1])


def test_the_epoch_with_the_best_validation_score_is_kept() -> None:
    features, labels = clouds(80)
    scores = iter([0.1, 0.5, 0.2, 0.5, 0.3])
    seen = []

    def score(targets: Tensor, logits: Tensor) -> float:
        assert torch.equal(targets, labels[:20])
        seen.append(logits.clone())
        return next(scores)

    validation = Validation(features[:20], labels[:20], score)
    probes = fit(features, labels, max_epochs=5, validation=validation)
    assert probes.epochs == [2]  # the first of equal ones
    assert torch.equal(probes.logits(features[:20])[0], seen[1])
    assert torch.equal(fit(features, labels, max_epochs=5).logits(features[:20])[0], seen[4])


def test_a_constant_feature_is_harmless() -> None:
    features, labels = clouds(80)
    features[:, 2] = 7.0
    assert fit(features, labels).weight.isfinite().all()


def test_learning_rate_falls_at_60_and_80_percent_of_the_epochs() -> None:
    assert milestones(100) == [60, 80]
    assert milestones(7) == [4, 5]  # rounded down


def test_confusion_matrix_counts_true_rows_and_predicted_columns() -> None:
    labels, predictions = torch.randint(4, (300,)), torch.randint(4, (300,))
    expected = torch.zeros(4, 4, dtype=torch.int64)
    for label, predicted in zip(labels.tolist(), predictions.tolist(), strict=True):
        expected[label, predicted] += 1
    assert torch.equal(confusion_matrix(labels, predictions, 4), expected)
    share = 100 * expected.diagonal().sum().item() / 300
    assert accuracy_percent(labels, predictions) == pytest.approx(share, abs=1e-9)


def test_deviation_is_that_of_a_sample_and_one_value_has_none() -> None:
    average, deviation = mean_and_std([1.0, 2.0, 6.0])
    assert average == pytest.approx(3.0)
    assert deviation == pytest.approx(7**0.5)  # (4 + 1 + 9) / 2
    assert mean_and_std([1.5]) == (1.5, None)

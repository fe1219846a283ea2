"""k nearest neighbours against scikit-learn, and what decides between equal votes."""

import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from models.knn import knn_scores
from models.logistic import STRENGTHS, fit_logistic_sweep


def test_votes_are_scikit_learns() -> None:
    train, others = torch.randn(120, 6) + 4, torch.randn(50, 6) + 4
    labels = torch.arange(120) % 3
    scores = knn_scores(train, F.one_hot(labels), others, k=5)
    center = train.mean(0)
    reference = KNeighborsClassifier(5, metric="cosine").fit((train - center).numpy(), labels)
    shares = torch.from_numpy(reference.predict_proba((others - center).numpy()))
    assert torch.equal(scores.floor().long(), (5 * shares).round().long())


def test_similarity_decides_between_equal_votes_and_never_outvotes() -> None:
    train = torch.tensor([[1.0, 0.0], [0.9, 0.5], [0.5, 0.9], [-2.4, -1.4]])  # centre 0
    targets = F.one_hot(torch.tensor([1, 0, 0, 0]))
    even = knn_scores(train, targets, torch.tensor([[1.0, 0.1]]), k=2)
    assert even.argmax(1).item() == 1
    odd = knn_scores(train, targets, torch.tensor([[1.0, 0.1]]), k=3)
    assert odd.argmax(1).item() == 0


def test_strength_of_the_regression_is_the_best_on_validation() -> None:
    labels = torch.arange(60) % 3
    centres = torch.randn(3, 40)
    features, others = (centres[labels] + 4 * torch.randn(60, 40) for _ in range(2))
    fitted = fit_logistic_sweep(features, labels, (others, labels), 3)
    mean, std = features.mean(0), features.std(0)
    accuracies = [
        LogisticRegression(C=strength, max_iter=2000)
        .fit(((features - mean) / std).numpy(), labels.numpy())
        .score(((others - mean) / std).numpy(), labels.numpy())
        for strength in STRENGTHS
    ]
    chosen = (fitted.logits(others).argmax(1) == labels).double().mean().item()
    assert abs(chosen - max(accuracies)) <= 1.5 / 60
    assert fitted.strength in STRENGTHS


def test_two_classes_have_two_rows() -> None:
    features, labels = torch.randn(40, 5), torch.arange(40) % 2
    features[:, 0] += 3 * labels
    fitted = fit_logistic_sweep(features, labels, (features, labels), 2)
    assert fitted.logits(features).shape == (40, 2)
    assert (fitted.logits(features).argmax(1) == labels).float().mean() > 0.8

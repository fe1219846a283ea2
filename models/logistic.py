"""Multinomial logistic regression on fixed features by L-BFGS, its strength chosen on validation.

The protocol of torchgeo-bench and of many papers: no learning rate, no epochs, one convex problem
per strength of the regularisation.
"""

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from utils.progress import progress

# Inverse strengths C in half decades, the most regularised first: each starts where the last ended.
STRENGTHS = tuple(10.0 ** (step / 2) for step in range(-8, 5))
_MAX_ITERATIONS = 500


@dataclass(frozen=True)
class FittedRegression:
    """A regression on standardised features.

    Attributes:
        mean: Of every feature over the train set, shape (D,).
        std: Of every feature over the train set, 1 where it is constant, shape (D,).
        weight: Shape (C, D).
        bias: Shape (C,).
        strength: The inverse regularisation that was best on validation.
    """

    mean: Tensor
    std: Tensor
    weight: Tensor
    bias: Tensor
    strength: float

    def logits(self, features: Tensor) -> Tensor:
        """Score features: (N, D) -> (N, C)."""
        return (features - self.mean) / self.std @ self.weight.T + self.bias


def fit_logistic_sweep(
    features: Tensor, labels: Tensor, validation: tuple[Tensor, Tensor], num_classes: int
) -> FittedRegression:
    """Fit one regression per strength and keep the one with the best accuracy on validation.

    Args:
        features: Of the labelled train samples, shape (N, D).
        labels: int64, shape (N,); each class has a sample.
        validation: Features and labels of the validation set.
        num_classes: C.
    """
    std, mean = torch.std_mean(features, dim=0)
    std = torch.where(std > 0, std, 1.0)
    inputs = ((features - mean) / std).numpy()
    model = LogisticRegression(max_iter=_MAX_ITERATIONS, tol=1e-3, warm_start=True)
    best, best_accuracy = None, -1.0
    for strength in progress(STRENGTHS, desc="L-BFGS", unit=" strengths", leave=False):
        model.set_params(C=strength).fit(inputs, labels.numpy())
        coefficients = (model.coef_, model.intercept_)
        weight, bias = (torch.from_numpy(np.float32(c)) for c in coefficients)
        fitted = FittedRegression(mean, std, *_all_classes(weight, bias, num_classes), strength)
        predicted = fitted.logits(validation[0]).argmax(1)
        accuracy = (predicted == validation[1]).double().mean().item()
        if accuracy > best_accuracy:
            best, best_accuracy = fitted, accuracy
    assert best is not None
    return best


def _all_classes(weight: Tensor, bias: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Undo scikit-learn's shorthand for two classes, which keeps the row of the second only."""
    if num_classes == 2:
        return torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
    return weight, bias

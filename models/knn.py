"""k nearest neighbours among the features of a frozen encoder, by cosine similarity."""

import torch
import torch.nn.functional as F
from torch import Tensor

_ROWS = 1024  # of similarities at a time


def knn_scores(train_features: Tensor, targets: Tensor, features: Tensor, k: int) -> Tensor:
    """Count the classes of the ``k`` most similar train samples.

    Features are centred by the train set, for those of a ResNet all point the same way.

    Args:
        train_features: Shape (N, D), k <= N.
        targets: One-hot or multi-hot classes of the train samples, shape (N, C).
        features: Shape (M, D).
        k: Neighbours.

    Returns:
        Votes, and in the decimals, which decide between equal votes, how similar their voters are:
        shape (M, C).
    """
    center = train_features.mean(0)
    train = F.normalize(train_features - center, dim=1)
    targets = targets.float()
    scores = []
    for part in features.split(_ROWS):
        similarity, nearest = (F.normalize(part - center, dim=1) @ train.T).topk(k)
        votes = targets[nearest]  # (M', k, C)
        # Below one vote: (1 + similarity) / 2 is at most 1 for each of the k voters.
        closeness = (1 + similarity).clamp(0, 2) / (2 * (k + 1))
        scores.append(((1 + closeness)[..., None] * votes).sum(1))
    return torch.cat(scores)

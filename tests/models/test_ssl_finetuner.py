"""Fine-tuning: what is trained, what is kept, what is scored."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from models.backbones import Encoder
from models.best_epoch import BestEpoch
from models.ssl_finetuner import SSLFineTuner
from tests.references.plain_training import plain_trainer
from utils.errors import UserError
from utils.input_spec import InputSpec
from utils.metrics import accuracy


class Squares(Dataset[tuple[Tensor, Tensor, int]]):
    """Dark and bright pictures: uint8, (3, 32, 32), class, row."""

    def __init__(self, count: int, multi_label: bool = False) -> None:
        self.targets = torch.arange(count) % 2
        levels = 60 + 120 * self.targets[:, None, None, None]
        self.pictures = (levels + torch.randint(60, (count, 3, 32, 32))).to(torch.uint8)
        if multi_label:
            self.targets = F.one_hot(self.targets, 3)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, int]:
        return self.pictures[index], self.targets[index], index


def model(**changes: Any) -> SSLFineTuner:
    settings: dict[str, Any] = {
        "normalize": InputSpec.of_pictures().normalize,
        "multi_label": False,
        "score": accuracy,
        "learning_rate": 1e-3,
    }
    return SSLFineTuner(Encoder("resnet18_slim"), 2, **(settings | changes))


def fit(module: SSLFineTuner, data: Squares, max_epochs: int = 2) -> None:
    loader = DataLoader(data, batch_size=8)
    plain_trainer(None, max_epochs).fit(module, loader, loader)


def tensors(module: SSLFineTuner) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def changed(before: dict[str, Tensor], module: SSLFineTuner) -> set[str]:
    """Say which kinds of tensors differ."""
    kinds = set()
    for name, tensor in module.state_dict().items():
        if not torch.equal(tensor, before[name]):
            part = name.split(".")[0]
            is_statistic = "running" in name or "num_batches" in name
            kinds.add(f"{part} {'statistics' if is_statistic else 'weights'}")
    return kinds


@pytest.mark.parametrize("freeze", [False, True])
@pytest.mark.parametrize("train_mode", [False, True])
def test_what_changes_in_training(freeze: bool, train_mode: bool) -> None:
    module = model(freeze_backbone=freeze, encoder_in_train_mode=train_mode)
    before = tensors(module)
    fit(module, Squares(16), max_epochs=1)
    expected = {"classifier weights"}
    expected |= set() if freeze else {"encoder_q weights"}
    expected |= {"encoder_q statistics"} if train_mode else set()
    assert changed(before, module) == expected


def test_the_best_epoch_is_kept_and_scored_on_the_whole_set() -> None:
    scores, seen = iter([1.0, 3.0, 3.0, 2.0]), list[Tensor]()

    def score(targets: Tensor, logits: Tensor) -> float:
        assert torch.equal(targets, data.targets)  # in order, the last batch too
        seen.append(logits.clone())
        return next(scores)

    data = Squares(19)
    module = model(score=score)
    fit(module, data, max_epochs=4)
    assert module.best.epoch == 2
    assert module.best.score == 3.0
    module.load_state_dict(module.best.state)
    with torch.no_grad():
        torch.testing.assert_close(module.eval()(data.pictures), seen[1], rtol=0, atol=1e-4)


def test_rows_that_a_sampler_repeats_count_once() -> None:
    module = model()
    logits = torch.randn(5, 2)
    module.validation = [
        (torch.tensor([3, 0, 2]), torch.tensor([1, 0, 0]), logits[[3, 0, 2]]),
        (torch.tensor([4, 0, 1]), torch.tensor([0, 0, 1]), logits[[4, 0, 1]]),
    ]
    targets, ordered = module.validation_outputs()
    assert targets.tolist() == [0, 1, 0, 1, 0]
    assert torch.equal(ordered, logits)
    assert module.validation == []


def test_labels_are_learned_by_the_soft_margin_loss() -> None:
    data = Squares(8, multi_label=True)
    module = SSLFineTuner(
        Encoder("resnet18_slim"),
        3,
        normalize=InputSpec.of_pictures().normalize,
        multi_label=True,
        score=lambda *_: 0.0,
        learning_rate=1e-3,
    )
    module.log = lambda *_, **__: None  # type: ignore[method-assign]
    batch = (data.pictures, data.targets, torch.arange(8))
    loss = module.training_step(batch, 0)
    logits = module(data.pictures)
    expected = -(
        data.targets * F.logsigmoid(logits) + (1 - data.targets) * F.logsigmoid(-logits)
    ).mean()
    torch.testing.assert_close(loss, expected)


def test_scores_that_are_not_finite_end_the_run() -> None:
    with pytest.raises(UserError, match=r"scores are not finite after epoch 1: .*lower"):
        fit(model(learning_rate=1e30), Squares(8))


def test_a_score_that_is_not_a_number_is_never_the_best() -> None:
    best = BestEpoch()
    assert not best.update(math.nan, 1, {})
    assert best.update(50.0, 2, {})
    assert not best.update(math.nan, 3, {})
    assert not best.update(40.0, 4, {})
    assert (best.score, best.epoch) == (50.0, 2)

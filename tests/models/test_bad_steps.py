"""A step that is not finite leaves no trace, whatever of it was not finite."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from models.bad_steps import BadSteps, CollapseWarning
from models.moco2_module import MocoV2
from utils.errors import UserError

STEPS, BATCH, BAD = 5, 4, 2  # the bad step is in the middle


def make() -> MocoV2:
    torch.manual_seed(1)
    options: dict[str, Any] = {"emb_dim": 8, "num_negatives": 10, "emb_spaces": 2}
    return MocoV2("resnet18_slim", **options, log_every_n_steps=1)


def views() -> Tensor:
    return torch.randn(STEPS, 3, BATCH, 3, 32, 32, generator=torch.Generator().manual_seed(2))


class Spoil(Callback):
    """Make a part of one step not finite, and record the state before and after it."""

    def __init__(self, part: str, value: float, step: int = BAD) -> None:
        self.part, self.value, self.step = part, value, step
        self.states: list[dict[str, Tensor]] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.part == "gradient":
            weight = pl_module.get_parameter("encoder_q.6.0.conv1.weight")
            weight.register_hook(lambda gradient: self._spoiled(trainer, gradient))
        if self.part == "loss":
            assert isinstance(pl_module, MocoV2)
            score = pl_module._score

            def spoiled(*batch: Any) -> Any:
                logits, newest = score(*batch)
                return [self._spoiled(trainer, each) for each in logits], newest

            pl_module._score = spoiled  # type: ignore[method-assign,assignment]

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        img_q, img_k, _ = batch
        if batch_idx == self.step and self.part in ("query", "key"):
            (img_q if self.part == "query" else img_k[1])[1, 2, 3, 4] = self.value
        self._record(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._record(trainer, pl_module)

    def _record(self, trainer: Trainer, module: LightningModule) -> None:
        momenta = trainer.optimizers[0].state_dict()["state"]
        state = module.state_dict() | {str(k): v["momentum_buffer"] for k, v in momenta.items()}
        self.states.append({name: tensor.clone() for name, tensor in state.items()})

    def _spoiled(self, trainer: Trainer, tensor: Tensor) -> Tensor:
        return tensor * self.value if trainer.global_step == self.step else tensor


def collate(batch: list[Tensor]) -> tuple[Tensor, list[Tensor], None]:
    query, *keys = batch[0].clone()
    return query, keys, None


def fit(model: MocoV2, *callbacks: Callback) -> Trainer:
    calm: dict[str, Any] = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
    )
    calm |= {"max_epochs": 1, "accelerator": "cpu", "log_every_n_steps": 1}
    trainer = Trainer(**calm, callbacks=list(callbacks))
    trainer.fit(model, DataLoader(views(), collate_fn=collate))  # type: ignore[arg-type]
    return trainer


def test_finite_steps_are_those_of_a_plain_loop_bit_for_bit() -> None:
    expected, model = make(), make()
    optimizer = expected.optimizer(
        [*expected.encoder_q.parameters(), *expected.heads_q.parameters()]
    )
    for query, *keys in views():
        logits, targets = expected(query, keys)
        loss = torch.stack([F.cross_entropy(scores, targets) for scores in logits]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    fit(model, BadSteps(0))
    for name, tensor in expected.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name


@pytest.mark.parametrize("at_once", [True, False], ids=["cpu", "as on a GPU"])
@pytest.mark.parametrize(
    ("part", "value"),
    [("query", math.inf), ("key", math.nan), ("loss", math.nan), ("gradient", -math.inf)],
)
def test_a_bad_step_is_undone(
    monkeypatch: pytest.MonkeyPatch, part: str, value: float, at_once: bool
) -> None:
    monkeypatch.setattr("models.bad_steps._answers_at_once", lambda _: at_once)
    model, spoil = make(), Spoil(part, value)
    trainer = fit(model, BadSteps(1), spoil)
    before, after, *_, last = spoil.states[BAD:]
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    moved = {name for name in moved if not name.endswith("num_batches_tracked")}
    kinds = {name.split(".")[0] for name in moved}
    # The key encoder follows the weights of the step before. Momentum goes on without a gradient.
    of_query = {"encoder_q", "heads_q"} | {name for name in before if name.isdigit()}
    assert kinds <= {"encoder_k", "heads_k"} | (set() if at_once else of_query)
    assert not any("running" in name for name in moved)
    assert all(tensor.isfinite().all() for tensor in last.values())
    assert not torch.equal(last["queue"], after["queue"])
    assert (int(model.guard.count), model.is_last_step_good) == (1, True)
    assert trainer.callback_metrics["train/bad_steps"] == 1


def test_more_bad_steps_than_allowed_stop_the_run_at_once() -> None:
    spoil = Spoil("query", math.nan)
    with pytest.raises(UserError, match=r"not finite at step 2.*1 steps were skipped"):
        fit(make(), BadSteps(0), spoil)
    assert len(spoil.states) == BAD + 1


@pytest.mark.parametrize("count", [-1, 10**30, 1.5, True, None])
def test_a_count_that_no_run_has_is_refused(count: object) -> None:
    with pytest.raises(ValueError, match="another count of bad steps"):
        BadSteps(1).load_state_dict({"count": count})


def test_the_count_of_a_resumed_run_goes_on() -> None:
    watcher = BadSteps(1)
    watcher.load_state_dict({"count": 1})
    with pytest.raises(UserError, match="2 steps were skipped"):
        fit(make(), watcher, Spoil("query", math.nan))


def test_a_collapse_is_reported_once_for_each_space(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.bad_steps._MANY_LOGS", 2)
    model = make()
    for head in model.heads_k, model.heads_q:
        head[1].get_parameter("2.weight").data.zero_()
    with pytest.warns(UserWarning, match="collapses") as found:
        fit(model, CollapseWarning())
    texts = [str(each.message) for each in found]
    assert [text.split()[0] for text in texts if "collapses" in text] == ["train/spread_1"]

"""The model against a slow re-statement of MoCo and SeCo, and the promises about its state."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from pytorch_lightning import Trainer
from torch import Tensor

from models.moco2_module import MocoV2, lr_factor
from utils.augment_config import AugmentConfig
from utils.distributed import exchange, shared_permutation, to_device
from utils.input_spec import InputSpec
from utils.transforms import Augment

SPACES, DIM, QUEUE, BATCH = 3, 16, 10, 4


def make(**options: object) -> MocoV2:
    torch.manual_seed(1)
    arguments = {
        "base_encoder": "resnet18_slim",
        "emb_dim": DIM,
        "num_negatives": QUEUE,
        "emb_spaces": SPACES,
    } | options
    return MocoV2(**arguments)  # type: ignore[arg-type]


def batch(spaces: int = SPACES, size: int = BATCH) -> tuple[Tensor, list[Tensor]]:
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(spaces + 1, size, 3, 32, 32, generator=generator)
    return images[0], list(images[1:])


def slow_forward(model: MocoV2, img_q: Tensor, img_k: list[Tensor]) -> list[list[list[float]]]:
    """Logits per space and sample, one similarity at a time, from the definitions of the paper."""
    momentum = model.encoder_momentum
    for query, key in ((model.encoder_q, model.encoder_k), (model.heads_q, model.heads_k)):
        for p_q, p_k in zip(query.parameters(), key.parameters(), strict=True):
            p_k.data = momentum * p_k.data + (1 - momentum) * p_q.data
    v_q, v_k = model.encoder_q(img_q), [model.encoder_k(images) for images in img_k]
    result = []
    for space in range(len(img_k)):
        z_q = F.normalize(model.heads_q[space](v_q), dim=1)
        z_k = [F.normalize(model.heads_k[space](v), dim=1) for v in v_k]
        rows = []
        for sample in range(len(img_q)):
            candidates = [z_k[space][sample], *model.queue[space].T]
            if space > 0:  # the keys of the other views of the whole batch are negatives too
                others = [z_k[view] for view in range(len(img_k)) if view != space]
                candidates += [key for view in others for key in view]
            similarities = [(z_q[sample] @ key).item() for key in candidates]
            rows.append([s / model.softmax_temperature for s in similarities])
        result.append(rows)
    return result


@pytest.mark.parametrize("spaces", [1, 3])
def test_logits_are_those_of_the_paper(spaces: int) -> None:
    model = make(emb_spaces=spaces)
    with torch.no_grad():  # the key encoder must have something to follow
        for parameter in model.encoder_q.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    reference = copy.deepcopy(model)
    img_q, img_k = batch(spaces)
    expected = slow_forward(reference, img_q, img_k)

    logits, targets = model(img_q, img_k)

    shapes = [(BATCH, 1 + QUEUE + (2 * BATCH if space else 0)) for space in range(spaces)]
    assert [tuple(scores.shape) for scores in logits] == shapes
    assert targets.tolist() == [0] * BATCH
    for scores, slow in zip(logits, expected, strict=True):
        torch.testing.assert_close(scores, torch.tensor(slow), rtol=0, atol=2e-4)


def test_keys_equal_queries_at_the_start_and_get_no_gradient() -> None:
    model = make()
    for name, tensor in model.encoder_q.state_dict().items():
        assert torch.equal(tensor, model.encoder_k.state_dict()[name])
    logits, targets = model(*batch())
    torch.stack([F.cross_entropy(scores, targets) for scores in logits]).sum().backward()
    assert all(p.grad is None for p in model.encoder_k.parameters())
    assert all(p.grad is None for p in model.heads_k.parameters())
    assert all(p.grad is not None for p in model.encoder_q.parameters())
    assert all(p.grad is not None for p in model.heads_q.parameters())


def test_the_average_moves_before_the_keys_are_computed_and_they_enter_the_queue_after() -> None:
    model = make(encoder_momentum=0.0)
    with torch.no_grad():
        model.heads_q[0].get_parameter("2.bias").add_(1.0)
    before = model.queue.clone()
    logits, _ = model(*batch())
    assert torch.equal(
        *(head[0].get_parameter("2.bias") for head in (model.heads_k, model.heads_q))
    )
    assert torch.equal(model.queue[:, :, BATCH:], before[:, :, BATCH:])
    for space, (head, images) in enumerate(zip(model.heads_k, batch()[1], strict=True)):
        keys = F.normalize(head(model.encoder_k(images)), dim=1)  # of the view of the space
        torch.testing.assert_close(model.queue[space, :, :BATCH], keys.T, rtol=0, atol=1e-5)
    assert model.queue_ptr.tolist() == [[BATCH]] * SPACES
    z_q = F.normalize(model.heads_q[0](model.encoder_q(batch()[0])), dim=1)
    from_old_queue = z_q @ before[0] / model.softmax_temperature
    torch.testing.assert_close(logits[0][:, 1:], from_old_queue, rtol=0, atol=1e-3)


def test_state_dict_has_the_names_and_shapes_of_the_original() -> None:
    state = make(base_encoder="resnet18").state_dict()
    expected = {
        "encoder_q.0.weight": (64, 3, 7, 7),
        "encoder_q.1.running_mean": (64,),
        "encoder_k.7.1.bn2.num_batches_tracked": (),
        "heads_q.0.0.weight": (512, 512),
        "heads_k.2.2.bias": (DIM,),
        "queue": (SPACES, DIM, QUEUE),
        "queue_ptr": (SPACES, 1),
    }
    for name, shape in expected.items():
        assert tuple(state[name].shape) == shape, name
    prefixes = {name.split(".")[0] for name in state}
    assert prefixes == {"encoder_q", "encoder_k", "heads_q", "heads_k", "queue", "queue_ptr"}
    # 122 tensors in an encoder of torchvision without its classifier, 4 in a head.
    assert len(state) == 2 * 120 + 2 * 4 * SPACES + 2


@pytest.mark.difference("precision")
def test_logits_are_float32_under_autocast() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits, _ = make()(*batch())
    assert {scores.dtype for scores in logits} == {torch.float32}


def test_grouped_keys_return_in_the_order_of_their_queries() -> None:
    """In eval mode statistics do not depend on groups, so only the order could differ."""
    grouped, whole = make(bn_group_size=2), make()
    whole.load_state_dict(grouped.state_dict())
    expected, _ = whole.eval()(*batch())
    logits, _ = grouped.eval()(*batch())
    for scores, reference in zip(logits, expected, strict=True):
        torch.testing.assert_close(scores, reference, rtol=0, atol=1e-4)


def test_grouped_statistics_change_the_keys_while_training() -> None:
    grouped, whole = make(bn_group_size=2), make()
    whole.load_state_dict(grouped.state_dict())
    difference = grouped(*batch())[0][0] - whole(*batch())[0][0]
    assert difference.abs().max() > 0.1


def test_the_loss_falls_below_chance_on_a_few_images() -> None:
    model = make(emb_spaces=1, num_negatives=24, encoder_momentum=0.9, softmax_temperature=0.2)
    optimizer = torch.optim.SGD([*model.encoder_q.parameters(), *model.heads_q.parameters()], 0.05)
    images, losses = torch.randn(4, 8, 3, 32, 32), []
    for step in range(16):  # the queue holds the three other batches
        views = [images[step % 4] + 0.1 * torch.randn(8, 3, 32, 32) for _ in range(2)]
        logits, targets = model(views[0], [views[1]])
        loss = F.cross_entropy(logits[0], targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[4] == pytest.approx(math.log(25), abs=1.0)
    assert sum(losses[-4:]) / 4 < math.log(25) - 1.5


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_cpu_never_waits_for_the_gpu() -> None:
    moco = make(num_negatives=40, bn_group_size=2).cuda()
    optimizer = moco.optimizer([*moco.encoder_q.parameters(), *moco.heads_q.parameters()])
    augment = Augment(InputSpec.of_pictures(), AugmentConfig(crop_size=32)).cuda()
    patches = torch.randint(256, (8, 3, 48, 48), dtype=torch.uint8).cuda()
    keys = torch.arange(8).cuda()

    def step(number: int) -> None:
        order = shared_permutation(8, number)
        moved, moved_keys = exchange(patches, order), exchange(keys, order)
        img_k = [augment(moved, moved_keys, stream, True) for stream in range(SPACES)]
        img_q = augment(patches, keys, SPACES, False)
        loss = moco.training_step((img_q, img_k, to_device(order, patches.device)), number)
        optimizer.zero_grad()
        loss.backward()
        moco.on_after_backward()
        optimizer.step()

    moco.trainer = Trainer(logger=False)
    moco.trainer.optimizers = [optimizer]
    step(0)  # libraries start
    torch.cuda.set_sync_debug_mode("error")
    try:
        for number in range(1, 4):
            step(number)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(
    ("epoch", "expected"), [(0, 1), (119.9, 1), (120, 0.1), (159, 0.1), (160, 0.01), (200, 0.01)]
)
@pytest.mark.difference("schedule")
def test_step_divides_by_ten_at_the_milestones(epoch: float, expected: float) -> None:
    factor = lr_factor(epoch, 200, kind="step", milestones=(120, 160))
    assert factor == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("warmup", [0.0, 10.0])
def test_cosine_falls_from_one_to_zero(warmup: float) -> None:
    def factor(epoch: float) -> float:
        return lr_factor(epoch, 100, kind="cosine", warmup_epochs=warmup)

    middle = (warmup + 100) / 2
    assert factor(warmup) == pytest.approx(1)
    assert factor(middle) == pytest.approx(0.5)
    assert factor(100) == pytest.approx(0, abs=1e-12)
    assert factor(warmup + (100 - warmup) / 3) == pytest.approx((1 + math.cos(math.pi / 3)) / 2)


@pytest.mark.parametrize("kind", ["step", "cosine"])
def test_warm_up_rises_linearly(kind: str) -> None:
    factors = [lr_factor(e, 100, kind=kind, warmup_epochs=5) for e in (0, 1, 2.5, 4)]
    assert factors == pytest.approx([0, 0.2, 0.5, 0.8])

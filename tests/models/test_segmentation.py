"""The change detector: levels, decoder, loss and scores against slow re-statements."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import resnet18

from datasets.oscd.files import City
from datasets.oscd.tiles import CityTiles
from models.backbones import Encoder
from models.change_detector import ChangeDetector, masked_loss
from models.change_scores import count_changes
from models.segmentation import (
    LEVELS,
    LEVELS_OF_THE_ORIGINAL,
    DecoderBlock,
    SegmentationEncoder,
    UNet,
    get_segmentation_model,
    level_channels,
)
from utils.errors import UserError

CHANNELS = (16, 16, 32, 64, 128)  # of resnet18_slim


def model_of(encoder: Encoder) -> UNet:
    return get_segmentation_model(encoder, LEVELS, CHANNELS)


def images(side: int = 64, bands: int = 3, count: int = 2) -> Tensor:
    return torch.randint(0, 256, (2, count, bands, side, side), dtype=torch.uint8)


def detector(encoder: Encoder | None = None, **changes: object) -> ChangeDetector:
    settings: dict[str, object] = {"learning_rate": 1e-3, "hyper_parameters": {}, "seed": 0}
    settings |= {"normalize": lambda pictures: pictures / 255} | changes
    return ChangeDetector(encoder or Encoder("resnet18_slim"), **settings)  # type: ignore[arg-type]


def slow_levels(encoder: Encoder, x: Tensor, *, before_batch_norm: bool) -> list[Tensor]:
    """Name what the levels are, instead of counting children."""
    conv1, bn1, relu, maxpool, *layers = list(encoder)[:8]
    raw = conv1(x)
    activated = relu(bn1(raw))
    levels, out = [raw if before_batch_norm else activated], maxpool(activated)
    for layer in layers:
        out = layer(out)
        levels.append(out)
    return levels


def randomise_statistics(module: nn.Module) -> None:
    """Give batch norm something to do in eval mode."""
    for name, statistic in module.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            nn.init.uniform_(statistic, 0.5, 2)


@pytest.mark.parametrize(
    ("name", "channels"),
    [("resnet18", [64, 64, 128, 256, 512]), ("resnet50", [64, 256, 512, 1024, 2048])],
)
@pytest.mark.parametrize("before_batch_norm", [False, True])
@pytest.mark.difference("oscd-stem", "oscd-encoders")
def test_levels_are_differences_of_the_two_dates_features(
    name: str, channels: list[int], before_batch_norm: bool
) -> None:
    encoder = Encoder(name)
    randomise_statistics(encoder)
    levels = LEVELS_OF_THE_ORIGINAL if before_batch_norm else LEVELS
    assert level_channels(encoder, levels) == channels
    siamese = SegmentationEncoder(encoder, levels, channels, diff=True)
    date_1, date_2 = torch.rand(2, 1, 3, 64, 64)
    with torch.no_grad():
        one = slow_levels(encoder, date_1, before_batch_norm=before_batch_norm)
        two = slow_levels(encoder, date_2, before_batch_norm=before_batch_norm)
        differences = siamese(date_1, date_2)
    assert [level.shape[-1] for level in differences] == [32, 16, 8, 4, 2]
    for difference, a, b in zip(differences, one, two, strict=True):
        torch.testing.assert_close(difference, (a - b).abs())


def test_decoder_block_enlarges_shrinks_joins_and_normalises() -> None:
    block = DecoderBlock(6, 4, dropout=0.5).eval()
    randomise_statistics(block)
    coarse, fine = torch.randn(1, 6, 3, 3), torch.randn(1, 4, 6, 6)
    large = torch.empty(1, 6, 6, 6)
    for row in range(6):
        for column in range(6):
            large[..., row, column] = coarse[..., row // 2, column // 2]
    shrunk = F.conv2d(large, block.shrink.weight, block.shrink.bias, padding=1)
    joined = F.conv2d(torch.cat([shrunk, fine], 1), block.join.weight, padding=1)
    statistics = (block.norm.running_mean, block.norm.running_var)
    mean, var = (values[:, None, None] for values in statistics if values is not None)
    torch.testing.assert_close(block(coarse, fine), ((joined - mean) / (var + 1e-5).sqrt()).relu())
    out = block.train()(coarse.expand(64, -1, -1, -1), fine.expand(64, -1, -1, -1))
    dropped = (out == 0).all(dim=(2, 3))  # whole channels
    assert 0.3 < dropped.float().mean() < 0.7


@pytest.mark.parametrize("size", [(96, 96), (75, 101), (33, 40)])
def test_any_size_of_image_gives_a_logit_per_pixel(size: tuple[int, int]) -> None:
    model = model_of(Encoder("resnet18_slim", in_channels=5)).eval()
    date_1, date_2 = torch.rand(2, 2, 5, *size)
    assert model(date_1, date_2).shape == (2, 1, *size)


def test_dates_may_be_concatenated_for_several_classes() -> None:
    encoder = SegmentationEncoder(Encoder("resnet18_slim"), LEVELS, CHANNELS)
    date_1, date_2 = torch.rand(2, 1, 3, 64, 64)
    model = UNet(encoder, CHANNELS, 4).eval()
    assert [level.shape[1] for level in encoder(date_1, date_2)] == [2 * n for n in CHANNELS]
    assert model(date_1, date_2).shape == (1, 4, 64, 64)


def test_the_originals_call_takes_a_resnet_of_torchvision_and_leaves_its_encoder_apart() -> None:
    model = get_segmentation_model(resnet18(), LEVELS_OF_THE_ORIGINAL, (64, 64, 128, 256, 512))
    assert model(*torch.rand(2, 1, 3, 64, 64)).shape == (1, 1, 64, 64)
    decoder = set(model.parameters()).difference(model.encoder.parameters())
    assert len(decoder) == 4 * 5 + 2
    with pytest.raises(UserError, match="5 feature_indices need as many feature_channels, not 2"):
        get_segmentation_model(resnet18(), LEVELS, (64, 64))


def test_parameters_are_the_encoder_and_the_decoder_and_all_are_used() -> None:
    model = model_of(Encoder("resnet18_slim")).train()
    model(*torch.rand(2, 2, 3, 64, 64)).sum().backward()
    unused = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert unused == []


@pytest.mark.difference("oscd-weight")
def test_loss_is_the_mean_over_valid_pixels_with_weighted_changes() -> None:
    logits, mask = torch.randn(2, 5, 5), torch.rand(2, 5, 5) < 0.3
    valid = torch.rand(2, 5, 5) < 0.8
    total, count = 0.0, 0
    for logit, changed, counts in zip(
        logits.flatten().tolist(), mask.flatten().tolist(), valid.flatten().tolist(), strict=True
    ):
        if counts:
            probability = 1 / (1 + np.exp(-logit))
            total -= 7 * np.log(probability) if changed else np.log(1 - probability)
            count += 1
    loss = masked_loss(logits, mask, valid, torch.tensor(7.0))
    assert loss.item() == pytest.approx(total / count, rel=1e-5)


@pytest.mark.difference("oscd-padding")
def test_padding_changes_neither_loss_nor_gradient_nor_counts() -> None:
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (2, 3, 40, 40), dtype=np.uint8)
    city = City("rio", pictures[0], pictures[1], rng.random((40, 40)) < 0.3, {})
    dataset = CityTiles([city], 32)
    batch = [torch.stack(column) for column in zip(*(dataset[i] for i in range(4)), strict=True)]
    module = detector().train()
    logits = module(batch[0], batch[1]).detach()
    results = []
    for filling in (False, True):
        mask, valid = batch[2] | (filling & ~batch[3]), batch[3]
        scores = torch.where(valid, logits, 50.0 if filling else -50.0).requires_grad_()
        loss = masked_loss(scores, mask, valid, torch.tensor(1.0))
        loss.backward()
        gradient = scores.grad
        assert gradient is not None
        assert not gradient[~valid].any()
        results.append((loss.detach(), gradient, count_changes(scores[valid], mask[valid])))
    assert (~batch[3]).sum() == 4 * 32 * 32 - 40 * 40
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


@pytest.mark.difference("oscd-batch-norm")
def test_in_train_mode_statistics_of_the_frozen_encoder_drift_but_no_weights() -> None:
    encoder = Encoder("resnet18_slim")
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    module = detector(encoder, as_original=True).train()
    date_1, date_2 = images()
    module(date_1, date_2)
    for name, tensor in encoder.state_dict().items():
        is_statistic = "running" in name or "num_batches" in name
        assert torch.equal(tensor, before[name]) != is_statistic, name
    assert encoder.state_dict()["1.num_batches_tracked"] == 2  # each date on its own
    module.eval()(date_1, date_2)
    assert encoder.state_dict()["1.num_batches_tracked"] == 2


def test_optimiser_takes_parameters_in_their_order_and_the_encoder_on_demand() -> None:
    for finetune in (False, True):
        module = detector(finetune_backbone=finetune)
        (optimizer,), (scheduler,) = module.configure_optimizers()
        (group,) = optimizer.param_groups
        expected = [
            id(parameter)
            for name, parameter in module.named_parameters()
            if finetune or not name.startswith("model.siamese.")
        ]
        assert [id(parameter) for parameter in group["params"]] == expected
        assert group["weight_decay"] == 1e-4
        assert scheduler.gamma == 0.95


def test_weights_that_are_not_finite_stop_the_run_before_they_are_kept() -> None:
    module = detector()
    module.counts.append(count_changes(torch.rand(9), torch.rand(9) < 0.5))
    with torch.no_grad():
        module.model.head.weight[0, 3] = torch.nan
    with pytest.raises(UserError, match=r"not finite after epoch 1: .*lower --learning_rate"):
        module.on_validation_epoch_end()
    assert module.best.state == {}

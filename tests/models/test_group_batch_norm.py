"""Grouped batch norm against one ``nn.BatchNorm2d`` per group."""

from functools import partial

import pytest
import torch
from torch import nn

from models.backbones import Encoder
from models.group_batch_norm import GroupBatchNorm2d, views_apart


@pytest.mark.difference("batch-norm")
def test_groups_are_normalised_as_if_each_had_its_own_device() -> None:
    images = torch.randn(12, 3, 5, 5) * torch.arange(1.0, 13)[:, None, None, None]
    expected = torch.cat([nn.BatchNorm2d(3)(group) for group in images.split(4)])
    torch.testing.assert_close(GroupBatchNorm2d(3, group_size=4)(images), expected)


@pytest.mark.parametrize("batch", [3, 5, 7])
def test_a_remainder_joins_the_last_group(batch: int) -> None:
    images = torch.randn(batch, 3, 4, 4)
    sizes = [2] * (batch // 2 - 1)
    groups = images.split([*sizes, batch - sum(sizes)])
    expected = torch.cat([nn.BatchNorm2d(3)(group) for group in groups])
    torch.testing.assert_close(GroupBatchNorm2d(3, group_size=2)(images), expected)


def test_running_statistics_move_as_far_as_a_whole_batch_moves_them() -> None:
    same = torch.randn(1, 3, 6, 6).repeat(8, 1, 1, 1)  # all groups agree with the whole
    grouped, whole = GroupBatchNorm2d(3, group_size=2), nn.BatchNorm2d(3)
    for _ in range(3):
        grouped(same)
        whole(same)
    torch.testing.assert_close(grouped.running_mean, whole.running_mean)
    assert grouped.num_batches_tracked == whole.num_batches_tracked
    # The unbiased variance of a small group is a little larger than that of the whole batch.
    torch.testing.assert_close(grouped.running_var, whole.running_var, rtol=0.02, atol=0)


def test_weights_load_into_an_ordinary_encoder_and_evaluate_alike() -> None:
    norm = partial(GroupBatchNorm2d, group_size=2)
    grouped, plain = Encoder("resnet18_slim", norm_layer=norm), Encoder("resnet18_slim")
    images = torch.randn(4, 3, 32, 32)
    grouped(images)
    plain.load_state_dict(grouped.state_dict(), strict=True)
    torch.testing.assert_close(grouped.eval()(images), plain.eval()(images))


@pytest.mark.parametrize("group_size", [0, 2])
def test_views_of_a_batch_are_normalised_one_after_the_other(group_size: int) -> None:
    images = torch.randn(9, 3, 5, 5) * torch.arange(1.0, 10)[:, None, None, None]
    together, alone = (GroupBatchNorm2d(3, group_size) for _ in range(2))
    expected = torch.cat([alone(view) for view in images.split(3)])
    with views_apart(together, 3):
        found = together(images)
    torch.testing.assert_close(found, expected)
    for name, tensor in alone.state_dict().items():
        torch.testing.assert_close(together.state_dict()[name], tensor)
    assert together.views == 1

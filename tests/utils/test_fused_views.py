"""The GPU's kernels, interpreted on the CPU, against the plain chain of torch operations."""

import itertools
import math
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from utils.augment_config import AugmentConfig
from utils.color_jitter import ColorParams, color_jitter, grey_weights
from utils.data import sample_keys
from utils.input_spec import InputSpec, quantile_spec
from utils.resample import gaussian_taps, resize_map, taps_map
from utils.transforms import Augment
from utils.view_draws import ViewDraws

pytest.importorskip("triton", reason="Triton is not installed")
from utils import fused_views

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # there the kernels are interpreted
LEVEL = 0.1  # of 255; fp16 alone is wrong by up to 1/16 of a level


def stretch(bands: int) -> torch.Tensor:
    """Return a curved table of 0..255, another one for each band."""
    curve = torch.linspace(0, 1, 256)[None] ** torch.linspace(0.5, 2, bands)[:, None]
    return (255 * curve).to(DEVICE)


def all_orders(bands: int, hue: bool) -> tuple[torch.Tensor, ColorParams]:
    """Return one sample for each of the 24 orders of four operations, packed and as columns."""
    generator = torch.Generator().manual_seed(bands)
    order = torch.tensor(list(itertools.permutations(range(3))) * 4)
    slot = torch.arange(4).repeat_interleave(6)
    factors = 0.2 + 1.6 * torch.rand(24, 3, generator=generator)
    turns = torch.rand(24, generator=generator) - 0.5
    grey = torch.rand(24, generator=generator) < 0.25
    single = torch.stack([turns, slot.float(), grey.float()], dim=1)
    values = torch.cat([factors, order.float(), single], dim=1)
    draws = ViewDraws(torch.nn.functional.pad(values, (4, 3)).to(DEVICE), True, hue)
    return draws.values[:, 4:13], draws.color


@pytest.mark.parametrize(
    ("bands", "size", "hue"),
    [(3, (7, 11), True), (3, (7, 11), False), (1, (9, 7), True), (12, (8, 5), False)],
)
def test_colour_is_that_of_the_plain_chain_in_all_orders(
    bands: int, size: tuple[int, int], hue: bool
) -> None:
    stored = torch.randint(0, 256, (24, bands, *size), dtype=torch.uint8, device=DEVICE)
    table, weights = stretch(bands), grey_weights(bands).to(DEVICE)
    packed, params = all_orders(bands, hue)
    ours = fused_views.color_jitter(stored, table, weights, packed, hue)
    pictures = torch.stack([table[b][stored[:, b].long()] for b in range(bands)], dim=1)
    expected = color_jitter(pictures, params)
    assert ours.dtype == torch.float16
    assert (ours.transpose(1, 2).float() - expected).abs().max() < LEVEL
    # Pictures that have been cropped before are fp16 already, in the layout of the result.
    ours = ours.transpose(1, 2)
    again = fused_views.color_jitter(ours, table, weights, packed, hue)
    expected = color_jitter(ours.float(), params)
    assert (again.transpose(1, 2).float() - expected).abs().max() < LEVEL


def test_maps_are_those_of_resample() -> None:
    boxes = torch.tensor([[0.0, 3, 20, 9], [5, 0, 33, 33], [2, 2, 1, 2]], device=DEVICE)
    for first in (0, 1):
        start, length = boxes[:, first], boxes[:, first + 2]
        ours = fused_views.resize_map(start, length, 40, 9)
        theirs = resize_map(start, length, 40, 9)
        torch.testing.assert_close(ours.float(), theirs, atol=1e-3, rtol=0)
    sigma = torch.tensor([0.0, 0.1, 0.7, 1.5, 2.0], device=DEVICE)
    taps = gaussian_taps(sigma, 2.0)
    ours, theirs = fused_views.blur_map(taps, 12), taps_map(taps, 12)
    torch.testing.assert_close(ours.float(), theirs, atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("synthetic", "crop_first", "bands"),
    [
        *itertools.product([True, False], [True, False], [3]),
        *((True, False, 1), (True, True, 12), (False, False, 12)),
    ],
)
def test_views_are_those_of_the_plain_chain(synthetic: bool, crop_first: bool, bands: int) -> None:
    names = [f"X{number}" for number in range(bands)]
    quantiles = {name: (200.0 + 9 * i, 3000.0 + 99 * i) for i, name in enumerate(names)}
    spec = quantile_spec(names, quantiles) if bands != 3 else InputSpec.of_pictures()
    augment = make_augment(spec, rotate=True, crop_first=crop_first)
    smooth = torch.rand(3, bands, 5, 4, generator=torch.Generator().manual_seed(1))
    patches = (255 * torch.nn.functional.interpolate(smooth, (20, 17), mode="bilinear")).byte()
    # Patches of one date among several are not contiguous.
    stored = torch.stack([patches, patches.flip(0)], dim=1)[:, 0].to(DEVICE)
    keys = sample_keys(3, torch.zeros(3, dtype=torch.long), torch.arange(3))
    draws = augment.draw(keys, 1, synthetic, (20, 17)).to(torch.device(DEVICE))
    ours, expected = augment._fused(stored, draws), augment._batched(stored, draws)
    assert ours.is_contiguous(memory_format=torch.channels_last)
    error = (ours - expected).abs() * augment.std
    assert error.max() < 5 * LEVEL  # fp16 pictures, maps and products
    assert error.mean() < LEVEL


def make_augment(spec: InputSpec, **config: Any) -> Augment:
    augment = Augment(spec, AugmentConfig(crop_size=14, **config)).to(DEVICE)
    augment.fused = fused_views
    return augment


def test_kernels_that_fail_or_differ_are_not_used(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The query of SeCo has neither colour nor blur: their kernels are tried all the same."""
    augment = make_augment(InputSpec.of_pictures())
    patches = torch.randint(0, 256, (2, 3, 9, 9), dtype=torch.uint8, device=DEVICE)
    assert augment._checked_kernels(patches) is fused_views
    assert capsys.readouterr().err == ""
    right = augment._fused

    def broken(factor: float | None, patches: torch.Tensor, draws: ViewDraws) -> torch.Tensor:
        if not draws.synthetic:
            return right(patches, draws)
        if factor is None:
            raise AssertionError  # as Triton does, without a text
        return right(patches, draws) * factor

    reasons = {
        None: "AssertionError",
        2.0: r"differ by \d+\.\d\d levels",
        math.nan: "by nan levels",
    }
    for factor, reason in reasons.items():
        monkeypatch.setattr(augment, "_fused", partial(broken, factor))
        assert augment._checked_kernels(patches) is False
        said = capsys.readouterr().err
        assert re.search(f"plain torch, which is slower: .*{reason}", said)


def test_without_triton_a_line_says_what_makes_the_views(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("fused_views", "view_kernels"):
        monkeypatch.delitem(sys.modules, f"utils.{name}")
        monkeypatch.delattr(f"utils.{name}")
    monkeypatch.setitem(sys.modules, "triton", None)
    augment = Augment(InputSpec.of_pictures(), AugmentConfig(crop_size=14))
    assert augment._checked_kernels(torch.zeros(2, 3, 20, 20, dtype=torch.uint8)) is False
    line = capsys.readouterr().err
    assert line.startswith("views are made by plain torch, which is slower: ModuleNotFoundError: ")
    assert "triton" in line
    assert line.count("\n") == 1


COMPILE = """
import sys, warnings
from triton.backends.compiler import GPUTarget
from triton.runtime import JITFunction, driver
import torch
from utils import fused_views
from utils.augment_config import AugmentConfig
from utils.input_spec import quantile_spec
from utils.transforms import Augment

class Driver:
    get_current_target = lambda self: GPUTarget("cuda", 90, 32)
    get_current_device = lambda self: 0
    get_current_stream = lambda self, device: 0

def compile_only(self, *args, grid, warmup, **options):
    compiled.add(run(self, *args, grid=grid, warmup=True, **options))

warnings.simplefilter("error")  # of a Triton that is about to change a default, for example
driver.set_active(Driver())
compiled, run, JITFunction.run = set(), JITFunction.run, compile_only
for bands in (3, 5):
    names = [f"X{number}" for number in range(bands)]
    spec = quantile_spec(names, dict.fromkeys(names, (0.0, 9.0)))
    for crop_first in (True, False):
        augment = Augment(spec, AugmentConfig(crop_size=24, crop_first=crop_first))
        augment.fused = fused_views
        for synthetic in (True, False):
            draws = augment.draw(torch.arange(2), 0, synthetic, (40, 40))
            augment._fused(torch.zeros(2, bands, 40, 40, dtype=torch.uint8), draws)
print(*sorted(f"{kernel.name} {len(kernel.asm['cubin'])}" for kernel in compiled), sep="\\n")
"""


@pytest.mark.slow
def test_kernels_compile_for_a_gpu_that_is_not_here(tmp_path: Path) -> None:
    """What the interpreter accepts the compiler may not. Triton decides when it is imported."""
    environment = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", COMPILE]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    kinds = {line.split()[0] for line in done.stdout.splitlines()}
    steps = ("color", "stretch", "resize_map", "blur_map", "views")
    assert kinds == {f"{step}_kernel" for step in steps}

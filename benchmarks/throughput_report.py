"""The table of benchmarks/throughput.py, and whether the goals of the project are met."""

from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.roofline import gemm_name
from benchmarks.timing import Rates
from utils.precision import autocast_type

AllRates = Mapping[str, Rates]
SECO_1M_SAMPLES = 200 * 200_000  # epochs x places
# Title, then per case its label; each is compared with the first.
INPUT_SECTIONS = {
    "reading 3 dates x 3 bands x 264 x 264 px, one core": {
        "read/reference": "original: rasterio, a file per band",
        "read/folder": "folder",
        "read/zip": "zip, read in place",
        "read/store": "store, memory map",
        "read/ram": "store, --cache ram",
    },
    "augmentation, 4 views of 224 px, one core": {
        "augment/reference": "original: Pillow and torchvision",
        "augment/ours": "ours",
    },
    "reading and augmentation, one core": {
        "input/reference": "original",
        "input/store": "store and ours",
    },
}
TRAIN_LABELS = {
    "step, views": "step alone, views on the device",
    "step, patches": "augmentation and step, patches on the device",
    "loop, store": "from the store, bare loop",
    "Trainer, memory": "patches on the device, Lightning",
    "Trainer, store": "from the store, Lightning",
    "Trainer, store on GPU": "from the store, Lightning, --cache gpu",
    "loop, reference": "from the original's pipeline, bare loop",
}


def ratio(name: str, other: str, scale: float = 1.0) -> Callable[[AllRates], float]:
    """Return how to compute how many times faster a case is than another one."""
    return lambda rates: scale * rates[name].over(rates[other])


def loader_gap(encoder: str) -> Callable[[AllRates], float]:
    """Return how to compute the percentage that training from a store loses against memory."""
    share = ratio(f"{encoder}/Trainer, store", f"{encoder}/Trainer, memory", 100)
    return lambda rates: 100 - share(rates)


# What is measured and on which device, how, and the goal: at least, or at most.
GOALS: tuple[tuple[str, str, Callable[[AllRates], float], str, float], ...] = (
    ("store to batch, one core, samples/s", "", lambda r: r["read/store"].median, ">=", 5000),
    ("store / original, reading, one core", "", ratio("read/store", "read/reference"), ">=", 100),
    ("read + augment / original, one core", "", ratio("input/store", "input/reference"), ">=", 2),
    ("ResNet-18 lost by the loader, %", "CPU", loader_gap("resnet18"), "<=", 10),
    ("ResNet-18, samples/s", "H200", lambda r: r["resnet18/step, patches"].median, ">=", 10_000),
    ("ResNet-50, samples/s", "H200", lambda r: r["resnet50/step, patches"].median, ">=", 3000),
    ("ResNet-18 lost by the loader, %", "H200", loader_gap("resnet18"), "<=", 5),
    ("ResNet-50 lost by the loader, %", "H200", loader_gap("resnet50"), "<=", 5),
    ("ms per 1,024 views", "H200", lambda r: 256_000 / r["augment/device"].median, "<=", 2),
)


def check_goals(rates: AllRates, device: str) -> list[dict[str, Any]]:
    """Return each goal with its value and verdict; those of other devices have no value.

    Args:
        rates: Rates of all cases.
        device: Name of the GPU, or "CPU".
    """
    rows = []
    for what, where, compute, sign, goal in GOALS:
        value, verdict = None, f"not measured here, needs {where}"
        if where in device:
            value = compute(rates)
            verdict = "met" if (value >= goal if sign == ">=" else value <= goal) else "NOT MET"
        row = {"target": what, "goal": f"{sign} {goal:,}", "value": value, "verdict": verdict}
        rows.append(row)
    return rows


def ceiling(cost: Mapping[str, float], flop_per_s: float, bytes_per_s: float) -> dict[str, float]:
    """Return samples per second at the ceilings of a device.

    Args:
        cost: Result of ``step_cost``.
        flop_per_s: Rate of a large matrix product.
        bytes_per_s: Rate of a large copy.
    """
    arithmetic, memory = flop_per_s / cost["flop"], bytes_per_s / cost["traffic"]
    both = 1 / (1 / arithmetic + 1 / memory)
    return {"arithmetic": arithmetic, "memory": memory, "one after another": both}


def print_report(
    args: Namespace,
    rates: AllRates,
    costs: Mapping[str, Mapping[str, float]],
    targets: Sequence[Mapping[str, Any]],
) -> None:
    """Print all rates, what they are compared with, and the goals."""
    for title, labels in INPUT_SECTIONS.items():
        _print_header(title, "x original")
        first = rates[next(iter(labels))]
        for name, label in labels.items():
            _print_row(label, rates[name], f"{rates[name].over(first):.1f}")
    for encoder, cost in costs.items():
        _print_training(encoder, args, rates, cost)
    print(f"\n{'goal':44s}{'':>12s}{'measured':>12s}")
    for row in targets:
        value = "-" if row["value"] is None else f"{row['value']:,.4g}"
        print(f"  {row['target']:42s}{row['goal']:>12s}{value:>12s}  {row['verdict']}")
    print()


def _print_training(
    encoder: str, args: Namespace, rates: AllRates, cost: Mapping[str, float]
) -> None:
    """Print the rates of an encoder as shares of what the device could do."""
    gemm, copy = rates[gemm_name(autocast_type(args.precision))], rates["ceiling/copy"]
    limits = ceiling(cost, gemm.median, copy.median)
    sizes = f"batch {args.batch_size}, {args.crop_size} px, {args.precision}"
    _print_header(f"{encoder}, {sizes}", "% of ceiling")
    print(
        f"  a sample: {cost['flop'] / 1e9:.2f} GFLOP at {gemm.median / 1e9:,.0f} GFLOP/s, "
        f"{cost['traffic'] / 1e6:.0f} MB at {copy.median / 1e9:,.1f} GB/s"
    )
    for name, value in limits.items():
        print(f"  {f'ceiling, {name}':46s}{value:10,.1f}")
    for name, label in TRAIN_LABELS.items():
        case = rates.get(f"{encoder}/{name}")
        if case is not None:
            _print_row(label, case, f"{100 * case.median / limits['one after another']:.0f}")
    if f"{encoder}/Trainer, store" in rates:
        hours = SECO_1M_SAMPLES / rates[f"{encoder}/Trainer, store"].median / 3600
        print(f"  SeCo-1M, 200 epochs of 200,000 places at this rate: {hours:,.1f} h")


def _print_header(title: str, last: str) -> None:
    print(f"\n{title:48s}{'samples/s':>10s}{'quartiles':>22s}{last:>14s}")


def _print_row(label: str, case: Rates, last: str) -> None:
    low, high = case.quartiles
    spread = f"{low:,.1f} .. {high:,.1f}"
    print(f"  {label:46s}{case.median:10,.1f}{spread:>22s}{last:>14s}")

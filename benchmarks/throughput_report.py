"""The table of benchmarks/throughput.py, and whether the goals of the project are met."""

from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.roofline import gemm_name
from benchmarks.timing import Rates
from utils.precision import autocast_type

AllRates = Mapping[str, Rates]
SECO_1M_SAMPLES = 200 * 200_000  # epochs x places


def loader_gap(encoder: str) -> Callable[[AllRates], float]:
    """Return how to compute the percentage that training from a store loses against memory."""
    store, memory = f"{encoder}/Trainer, store", f"{encoder}/Trainer, memory"
    return lambda rates: 100 * (1 - rates[store].over(rates[memory]))


# What is measured and on which device, how, and the goal: at least, or at most.
GOALS: tuple[tuple[str, str, Callable[[AllRates], float], str, float], ...] = (
    ("ResNet-18 lost by the loader, %", "CPU", loader_gap("resnet18"), "<=", 10),
    ("ResNet-18, samples/s", "H200", lambda r: r["resnet18/step, patches"].median, ">=", 10_000),
    ("ResNet-50, samples/s", "NVIDIA", lambda r: r["resnet50/step, patches"].median, ">=", 3000),
    ("ResNet-18 lost by the loader, %", "NVIDIA", loader_gap("resnet18"), "<=", 5),
    ("ResNet-50 lost by the loader, %", "NVIDIA", loader_gap("resnet50"), "<=", 5),
    ("ms per 1,024 views", "NVIDIA", lambda r: 256_000 / r["augment/device"].median, "<=", 1.5),
)


def check_goals(rates: AllRates, device: str) -> list[dict[str, Any]]:
    """Return each goal with its value and verdict; those of other devices have no value.

    Args:
        rates: Rates of the cases that were measured.
        device: Name of the GPU, or "CPU".
    """
    rows = []
    for what, where, compute, sign, goal in GOALS:
        value, verdict = None, f"not measured here, needs {where}"
        if where in device:
            try:
                value = compute(rates)
            except KeyError:
                verdict = "not measured"
            else:
                verdict = "met" if (value >= goal if sign == ">=" else value <= goal) else "NOT MET"
        row = {"target": what, "goal": f"{sign} {goal:,}", "value": value, "verdict": verdict}
        rows.append(row)
    return rows


def ceilings_of(
    cost: Mapping[str, float], flop_per_s: float, bytes_per_s: float
) -> dict[str, float]:
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
    """Print all rates, shares of the ceilings, and the goals.

    Args:
        args: Flags of the benchmark.
        rates: Measured rates of all cases.
        costs: FLOP and bytes per sample of each encoder.
        targets: Goals with their values and verdicts, from ``check_goals``.
    """
    gemm, copy = (
        rates[gemm_name(autocast_type(args.precision))].median,
        rates["ceiling/copy"].median,
    )
    limits = {encoder: ceilings_of(cost, gemm, copy) for encoder, cost in costs.items()}
    print(f"\nbatch {args.batch_size}, {args.crop_size} px, {args.precision}")
    for encoder, cost in costs.items():
        print(
            f"{encoder}: {cost['flop'] / 1e9:.2f} GFLOP at {gemm / 1e9:,.0f} GFLOP/s, "
            f"{cost['traffic'] / 1e6:.0f} MB at {copy / 1e9:,.1f} GB/s: at most, in samples/s, "
            + ", ".join(f"{value:,.1f} ({name})" for name, value in limits[encoder].items())
        )
    print(f"\n{'case':36s}{'samples/s':>10s}{'quartiles':>24s}")
    for name, case in rates.items():
        kind, _, _ = name.partition("/")
        compared = ""
        if kind in limits:
            compared = f"{100 * case.median / limits[kind]['one after another']:.0f} % of ceiling"
        if kind != "ceiling":
            low, high = case.quartiles
            spread = f"{low:,.1f} .. {high:,.1f}"
            print(f"{name:36s}{case.median:10,.1f}{spread:>24s}{compared:>20s}")
    for encoder in costs:
        if f"{encoder}/Trainer, store" in rates:
            hours = SECO_1M_SAMPLES / rates[f"{encoder}/Trainer, store"].median / 3600
            print(f"SeCo-1M, {encoder}, 200 epochs of 200,000 places: {hours:,.1f} h")
    print_goals(targets)


def print_goals(targets: Sequence[Mapping[str, Any]]) -> None:
    """Print the result of ``check_goals``."""
    print(f"\n{'goal':44s}{'':>12s}{'measured':>12s}")
    for row in targets:
        value = "-" if row["value"] is None else f"{row['value']:,.4g}"
        print(f"{row['target']:44s}{row['goal']:>12s}{value:>12s}  {row['verdict']}")

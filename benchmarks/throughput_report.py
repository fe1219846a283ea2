"""The table and the picture of benchmarks/throughput.py."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.roofline import StepCost, gemm_name, roofline
from benchmarks.targets import ms_per_1024_views, seco_1m_minutes
from benchmarks.timing import Rates
from benchmarks.train_cases import TrainPlan
from utils.plots import save_figure

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


def print_report(
    plan: TrainPlan,
    rates: Mapping[str, Rates],
    costs: Mapping[str, StepCost],
    targets: Sequence[Mapping[str, object]],
) -> None:
    """Print all rates, what they are compared with, and the targets."""
    for title, labels in INPUT_SECTIONS.items():
        _print_header(title, "x original")
        first = rates[next(iter(labels))]
        for name, label in labels.items():
            _print_row(label, rates[name], f"{rates[name].over(first):.1f}")
            if name.startswith("augment/"):
                print(f"    {ms_per_1024_views(name)(rates):.0f} ms per 1,024 views")
    for encoder, cost in costs.items():
        print_training(encoder, plan, rates, cost)
    print_targets(targets)


def print_training(
    encoder: str, plan: TrainPlan, rates: Mapping[str, Rates], cost: StepCost
) -> None:
    """Print the rates of an encoder as shares of what the device could do."""
    gemm, copy = rates[gemm_name(plan.autocast)], rates["ceiling/copy"]
    ceiling = roofline(cost, gemm.median, copy.median)
    _print_header(
        f"{encoder}, batch {plan.batch_size}, {plan.crop_size} px, {plan.precision}, {plan.device}",
        "% of ceiling",
    )
    print(f"  {'ceiling of arithmetic':46s}{ceiling.arithmetic:10,.1f}", end="")
    print(f"  {cost.flop / 1e9:.2f} GFLOP per sample at {gemm.median / 1e9:,.0f} GFLOP/s")
    print(f"  {'ceiling of memory, eager':46s}{ceiling.memory:10,.1f}", end="")
    print(f"  {cost.traffic / 1e6:.0f} MB per sample at {copy.median / 1e9:,.1f} GB/s")
    print(f"  {'both, one after another':46s}{ceiling.one_after_another:10,.1f}")
    for name, label in TRAIN_LABELS.items():
        case = rates.get(f"{encoder}/{name}")
        if case is not None:
            share = case.median / ceiling.one_after_another
            _print_row(label, case, f"{100 * share:.0f}")
    if f"{encoder}/Trainer, store" in rates:
        hours = seco_1m_minutes(encoder)(rates) / 60
        print(f"  SeCo-1M, 200 epochs of 200,000 places at this rate: {hours:,.1f} h")


def print_targets(targets: Sequence[Mapping[str, object]]) -> None:
    """Print the goals, what was measured, and whether it is enough."""
    print(f"\n{'target':44s}{'goal':>10s}{'stretch':>10s}{'measured':>12s}")
    for row in targets:
        sign = "<=" if row["at_most"] else ">="
        numbers = [_number(row[key]) for key in ("goal", "stretch", "value")]
        print(
            f"  {row['target']:42s}{sign + ' ' + numbers[0]:>10s}{numbers[1]:>10s}{numbers[2]:>12s}"
            f"  {row['verdict']}"
        )
    print()


def plot_rates(path: Path, rates: Mapping[str, Rates]) -> None:
    """Draw the rates of all cases but the ceilings as bars with their quartiles."""
    shown = {name: case for name, case in rates.items() if not name.startswith("ceiling/")}
    medians = [case.median for case in shown.values()]
    spread = [
        [case.median - case.quartiles[0] for case in shown.values()],
        [case.quartiles[1] - case.median for case in shown.values()],
    ]
    figure = Figure(figsize=(9, 0.32 * len(shown) + 1), layout="constrained")
    axes = figure.subplots()
    colors = ["tab:grey" if "reference" in name else "tab:green" for name in shown]
    bars = axes.barh(list(shown), medians, xerr=spread, color=colors)
    axes.bar_label(bars, fmt="{:,.0f}", padding=4)
    axes.set(xscale="log", xlabel="samples per second; grey: the original's pipeline")
    axes.margins(x=0.15)
    axes.invert_yaxis()
    save_figure(figure, path)


def _print_header(title: str, last: str) -> None:
    print(f"\n{title:48s}{'samples/s':>10s}{'quartiles':>22s}{last:>14s}")


def _print_row(label: str, case: Rates, last: str) -> None:
    low, high = case.quartiles
    spread = f"{low:,.1f} .. {high:,.1f}"
    print(f"  {label:46s}{case.median:10,.1f}{spread:>22s}{last:>14s}")


def _number(value: object) -> str:
    if not isinstance(value, float | int):
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"

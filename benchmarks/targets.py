"""What the project promises about its speed, and whether a measurement keeps it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from benchmarks.timing import Rates

SECO_1M_SAMPLES = 200 * 200_000  # epochs x places
VIEWS_PER_SAMPLE = 4
Value = Callable[[Mapping[str, Rates]], float]


@dataclass(frozen=True)
class Target:
    """A number to reach.

    Attributes:
        what: The number, with its unit.
        where: Part of the name of the device that it is about; "CPU", or empty for any.
        value: Computes the number from the rates of all cases.
        goal: The number to reach.
        stretch: What would be better still.
        at_most: Whether less is better.
    """

    what: str
    where: str
    value: Value
    goal: float
    stretch: float | None = None
    at_most: bool = False

    def verdict(self, value: float | None) -> str:
        """Tell in a word or two whether a value reaches the goal."""
        if value is None:
            return f"not measured here, needs {self.where}"
        if self.stretch is not None and self._reaches(value, self.stretch):
            return "met, stretch too"
        return "met" if self._reaches(value, self.goal) else "NOT MET"

    def _reaches(self, value: float, goal: float) -> bool:
        return value <= goal if self.at_most else value >= goal


def median(name: str) -> Value:
    """Take the rate of a case."""
    return lambda rates: rates[name].median


def ratio(name: str, other: str, scale: float = 1.0) -> Value:
    """Take how many times faster a case is than another one."""
    return lambda rates: scale * rates[name].over(rates[other])


def loader_gap(encoder: str) -> Value:
    """Take by how many percent a training from a store is slower than from memory."""
    return lambda rates: (
        100 * (1 - rates[f"{encoder}/Trainer, store"].over(rates[f"{encoder}/Trainer, memory"]))
    )


def ms_per_1024_views(name: str) -> Value:
    """Take the time of 256 samples of four views."""
    return lambda rates: 1000 * 1024 / VIEWS_PER_SAMPLE / rates[name].median


def seco_1m_minutes(encoder: str) -> Value:
    """Extrapolate a run of the SeCo-1M recipe."""
    return lambda rates: SECO_1M_SAMPLES / rates[f"{encoder}/Trainer, store"].median / 60


TARGETS = (
    Target("store to batch, one core, samples/s", "", median("read/store"), 5000),
    Target("store / original, reading, one core", "", ratio("read/store", "read/reference"), 100),
    Target(
        "read + augment / original, one core", "", ratio("input/store", "input/reference"), 2, 4
    ),
    Target(
        "ResNet-18 from store / from memory, %",
        "CPU",
        ratio("resnet18/Trainer, store", "resnet18/Trainer, memory", 100),
        90,
    ),
    Target("ResNet-18 step, samples/s", "H200", median("resnet18/step, patches"), 10_000, 13_000),
    Target("ResNet-50 step, samples/s", "H200", median("resnet50/step, patches"), 3000, 4000),
    Target("ResNet-18 loader gap, %", "H200", loader_gap("resnet18"), 5, at_most=True),
    Target("ResNet-50 loader gap, %", "H200", loader_gap("resnet50"), 5, at_most=True),
    Target("ms per 1,024 views", "H200", ms_per_1024_views("augment/device"), 2, at_most=True),
    Target("SeCo-1M, ResNet-18, minutes", "H200", seco_1m_minutes("resnet18"), 70, at_most=True),
)


def check_targets(rates: Mapping[str, Rates], device_name: str) -> list[dict[str, object]]:
    """Hold rates against the targets.

    Args:
        rates: Of all cases.
        device_name: Of the GPU, or "CPU".

    Returns:
        Per target its name, goal, stretch, value (None if it was not measured) and verdict.
    """
    rows = []
    for target in TARGETS:
        value = target.value(rates) if target.where in device_name else None
        rows.append(
            {
                "target": target.what,
                "goal": target.goal,
                "stretch": target.stretch,
                "at_most": target.at_most,
                "value": value,
                "verdict": target.verdict(value),
            }
        )
    return rows

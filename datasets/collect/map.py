"""A picture of a plan: where its places lie."""

from pathlib import Path

from matplotlib.figure import Figure

from datasets.collect.plan import Plan
from utils.plots import save_figure


def plot_places(path: Path, plan: Plan) -> None:
    """Draw all places as points over latitude and longitude, the spares faint below them.

    Args:
        path: PNG to write.
        plan: Bounded plans are shown by what they cover, others by the whole world.
    """
    places, count = plan.places, plan.num_places
    figure = Figure(figsize=(12, 5.4), layout="constrained")
    axes = figure.add_subplot()
    size = min(12.0, max(0.15, 3000 / count))
    axes.scatter(
        places.lng[count:], places.lat[count:], size, "silver", linewidths=0, label="spares"
    )
    axes.scatter(
        places.lng[:count], places.lat[:count], size, "tab:blue", linewidths=0, label="places"
    )
    if plan.settings.sampler != "bounded":
        axes.set(xlim=(-180, 180), ylim=(-60, 85))
        axes.set_xticks(range(-180, 181, 30))
        axes.set_yticks(range(-60, 85, 20))
    axes.set(
        title=f"{count:,} places and {plan.num_spares:,} spares, seed {plan.settings.seed}",
        xlabel="longitude in degrees",
        ylabel="latitude in degrees",
    )
    axes.set_aspect("equal", adjustable="box" if plan.settings.sampler != "bounded" else "datalim")
    axes.grid(alpha=0.3)
    legend = axes.legend(loc="lower left", scatterpoints=3)
    for handle in legend.legend_handles:
        if handle is not None:
            handle.set(sizes=[12.0])
    save_figure(figure, path)

"""What a plan will cost, before it starts, and a map of its places."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from datasets.bands import ALL_BANDS
from datasets.collect.plan import Plan
from datasets.collect.settings import PATCH_PX
from utils.plots import save_figure

# Assumptions, for nothing here was measured on the real services.
SEARCHED_PER_PLACE = 1.6  # places that are searched until one has clear scenes on all dates
REQUEST_S = (1.3, 2.0)  # time of a request, of which 40 may be in flight
IN_FLIGHT, MOST_PER_S = 40, 100  # quota of a project of Earth Engine
STAC_REQUESTS, STAC_BYTES = 40, (10e6, 15e6)  # of an image of 12 bands: blocks around a window
# EECU hours per month and project: developers.google.com/earth-engine, tiers of April 2026.
TIERS = {"Community": 150, "Contributor": 1_000, "Partner": 100_000}
# Bytes of an image of 12 bands of 264 pixels in files, with the rest of their last blocks.
FILE_BYTES = {("uint8", "jpeg"): 68e3, ("uint8", "deflate"): 208e3, ("uint16", "deflate"): 584e3}


def estimate(plan: Plan, places_per_search: int) -> dict[str, Any]:
    """Estimate requests, bytes and time.

    Args:
        plan: Plan that is to be collected.
        places_per_search: Places in one request of a search.

    Returns:
        Plain numbers; pairs are the low and the high end.
    """
    settings = plan.settings
    images = plan.num_places * settings.num_dates
    searched = min(plan.num_places * SEARCHED_PER_PLACE, len(plan.places))
    searches = -(-int(searched) // places_per_search)
    share = len(settings.bands) / len(ALL_BANDS)
    pixels = settings.patch_px**2
    if settings.source == "earthengine":
        reads = images
        wire = [images * len(settings.bands) * pixels * 2] * 2
    else:
        reads = round(images * STAC_REQUESTS * share)
        wire = [round(images * share * size) for size in STAC_BYTES]
    requests = searches + reads
    if settings.format == "packed":
        disk, files = images * len(settings.bands) * pixels, 0
    else:
        scale = share * pixels / PATCH_PX**2
        disk = round(images * scale * FILE_BYTES[settings.dtype, settings.compress])
        files = images * (len(settings.bands) + 1)
    return {
        "places": plan.num_places,
        "spares": plan.num_spares,
        "images": images,
        "requests": requests,
        "requests_per_image": round(requests / images, 2),
        "bytes_received": wire,
        "bytes_on_disk": disk,
        "files": files,
        "hours": [round(requests * seconds / IN_FLIGHT / 3600, 4) for seconds in REQUEST_S],
        "hours_at_the_highest_rate": round(requests / MOST_PER_S / 3600, 2),
        "eecu_seconds_per_image": {
            tier: round(hours * 3600 / images, 3) for tier, hours in TIERS.items()
        },
    }


def estimate_text(plan: Plan, places_per_search: int) -> str:
    """Spell the estimate as a table, with what it assumes."""
    values = estimate(plan, places_per_search)
    slow, fast = reversed(values["hours"]), values["hours_at_the_highest_rate"]
    longest, shortest = slow
    wire = " to ".join(dict.fromkeys(map(_size, values["bytes_received"])))
    rows = [
        ("places", f"{values['places']:,} and {values['spares']:,} spares"),
        ("images", f"{values['images']:,}"),
        ("requests *", f"{values['requests']:,}, {values['requests_per_image']} per image"),
        ("received *", wire),
        ("on disk *", f"{_size(values['bytes_on_disk'])}, {_count(values['files'])} files"),
        ("hours *", f"{shortest:.2g} to {longest:.2g} with {IN_FLIGHT} requests in flight"),
    ]
    notes = [
        f"{SEARCHED_PER_PLACE:g} places are searched per place that is taken",
        f"a request takes {REQUEST_S[0]:g} to {REQUEST_S[1]:g} s",
        "files are as large as those of smooth pictures",
    ]
    if plan.settings.source == "earthengine":
        rows.append(("hours at least", f"{fast:g} at {MOST_PER_S} requests per second"))
        rows += [
            (f"{tier} tier", f"a month's hours suffice below {limit:,g} EECU-seconds per image")
            for tier, limit in values["eecu_seconds_per_image"].items()
        ]
        notes.append(
            "EECU-seconds of an image are not known: measure them with --probe and your project"
        )
    else:
        notes.append(f"an image of 12 bands takes {STAC_REQUESTS} requests")
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {value}" for name, value in rows]
    return "\n".join([*lines, "* assumed, never measured: " + "; ".join(notes)])


def _count(number: int) -> str:
    """Spell a number of files; a packed store has few."""
    return f"{number:,}" if number else "few"


def _size(count: float) -> str:
    """Spell a number of bytes."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.4g} TB"


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

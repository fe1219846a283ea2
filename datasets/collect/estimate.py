"""What a plan will cost, before it starts, and a map of its places."""

from pathlib import Path

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


def estimate(plan: Plan, places_per_search: int) -> dict[str, str]:
    """Estimate requests, bytes and time; those with a star are assumed.

    Args:
        plan: Plan that is to be collected.
        places_per_search: Places in one request of a search.
    """
    settings = plan.settings
    images = plan.num_places * settings.num_dates
    searched = min(plan.num_places * SEARCHED_PER_PLACE, len(plan.places))
    share = len(settings.bands) / len(ALL_BANDS)
    pixels = settings.patch_px**2
    is_stac = settings.source == "stac"
    reads = round(images * STAC_REQUESTS * share) if is_stac else images
    raw = images * len(settings.bands) * pixels
    wire = [images * share * size for size in STAC_BYTES] if is_stac else [2 * raw]
    requests = -(-int(searched) // places_per_search) + reads
    disk, files = float(raw), "few"
    if settings.format == "folder":
        disk = images * share * pixels / PATCH_PX**2
        disk *= FILE_BYTES[settings.dtype, settings.compress]
        files = f"{images * (len(settings.bands) + 1):,}"
    in_flight = _time(*(requests * seconds / IN_FLIGHT for seconds in REQUEST_S))
    facts = {
        "places": f"{plan.num_places:,} and {plan.num_spares:,} spares",
        "images": f"{images:,}",
        "requests *": f"{requests:,}, {requests / images:.2f} per image",
        "received *": " to ".join(map(_size, wire)),
        "on disk *": f"{_size(disk)}, {files} files",
        "time *": f"{in_flight} with {IN_FLIGHT} requests in flight",
    }
    notes = [
        f"{SEARCHED_PER_PLACE:g} places are searched per place that is taken",
        f"a request takes {REQUEST_S[0]:g} to {REQUEST_S[1]:g} s",
        "files are as large as those of smooth pictures",
    ]
    if is_stac:
        notes.append(f"an image of 12 bands takes {STAC_REQUESTS} requests")
    else:
        fastest = _time(requests / MOST_PER_S)
        facts["time at least"] = f"{fastest} at {MOST_PER_S} requests per second"
        for tier, hours in TIERS.items():
            limit = _number(hours * 3600 / images)
            facts[f"{tier} tier"] = f"enough below {limit} EECU-seconds per image"
        notes.append("--probe with your project measures the EECU-seconds of an image")
    return facts | {"* assumed": "; ".join(notes)}


def _time(*seconds: float) -> str:
    """Spell one time, or the shortest and the longest."""
    if max(seconds) < 60:
        return "less than a minute"
    unit, name = (60, "minutes") if max(seconds) < 3600 else (3600, "hours")
    return f"{' to '.join(_number(each / unit) for each in seconds)} {name}"


def _number(value: float) -> str:
    return f"{value:.2g}" if value < 99.5 else f"{value:,.0f}"


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
    for rows, color, label in (
        (slice(count, None), "silver", "spares"),
        (slice(count), "tab:blue", "places"),
    ):
        axes.scatter(places.lng[rows], places.lat[rows], size, color, linewidths=0, label=label)
    is_bounded = plan.settings.sampler == "bounded"
    if not is_bounded:
        axes.set(xlim=(-180, 180), ylim=(-60, 85))
        axes.set_xticks(range(-180, 181, 30))
        axes.set_yticks(range(-60, 85, 20))
    axes.set(
        title=f"{count:,} places and {plan.num_spares:,} spares, seed {plan.settings.seed}",
        xlabel="longitude in degrees",
        ylabel="latitude in degrees",
    )
    axes.set_aspect("equal", adjustable="datalim" if is_bounded else "box")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left", scatterpoints=3, markerscale=(12.0 / size) ** 0.5)
    save_figure(figure, path)

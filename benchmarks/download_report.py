"""What the benchmark of the downloader found: a table, whether the goals are met, a picture."""

from pathlib import Path
from statistics import mean
from typing import Any

from matplotlib.figure import Figure

from utils.plots import save_figure

DECODE = "decode and write, no network"
GOAL_SHARE, GOAL_REQUESTS = 0.8, 1.3  # of the lower bound; per image
# Of the original; the bytes are those of the JSON that the real client fetched from a server on
# loopback for one image of 264 px.
ORIGINAL_REQUESTS, ORIGINAL_MB = 4, 3.11


def case_name(share: float) -> str:
    """Name the case with a share of failing requests."""
    return f"{share:.0%} of requests failing"


def print_table(results: dict[str, Any]) -> None:
    """Print the table in Markdown, as it stands in README.md, and whether the goals are met."""
    print("| case | images/s (quartiles) | requests per image | complete |\n|---|---|---|---|")
    for case, found in results["images_per_second"].items():
        own = [run for run in results["runs"] if case == case_name(run["share"])]
        cells = ["-", "-"]
        if own:
            places, wanted = (sum(run[name] for run in own) for name in ("places", "wanted"))
            requests = mean(run["requests_per_image"] for run in own)
            cells = [f"{requests:.2f}", f"{places} of {wanted} places"]
        speed = f"{found['median']:.0f} ({found['low']:.0f} .. {found['high']:.0f})"
        print(f"| {case} | {speed} | {' | '.join(cells)} |")
    share, requests = results["share_of_bound"], results["requests_per_image"]
    bound = results["bound"]
    what = f"{results['max_requests']:.0f} requests/s" if bound["is_requests"] else DECODE
    print(
        f"{share:.0%} of the lower bound ({what}: {bound['median']:.0f} images/s), goal "
        f"{GOAL_SHARE:.0%}: {_verdict(share >= GOAL_SHARE)}\n"
        f"{requests:.2f} requests per image, goal {GOAL_REQUESTS}: "
        f"{_verdict(requests <= GOAL_REQUESTS)}; the original {ORIGINAL_REQUESTS}\n"
        f"{results['mb_per_image']:.2f} MB per image; the original {ORIGINAL_MB} MB\n"
        f"all places complete and verified: {_verdict(results['is_complete'])}"
    )
    good = [run for run in results["runs"] if run["share"] == 0]
    client, server = (mean(run[name] for run in good) for name in ("client_ms", "server_ms"))
    decode = mean(results["decode_ms"])
    print(
        f"a core's ms per image: decode and write {decode:.1f}, downloader {client:.1f} "
        f"({decode / client:.0%} are decoding and writing), server {server:.1f}"
    )


def plot(path: Path, results: dict[str, Any]) -> None:
    """Draw images/s as a bar per case."""
    found = results["images_per_second"]
    cases, medians = list(found), [rates["median"] for rates in found.values()]
    spreads = [
        [rates["median"] - rates["low"] for rates in found.values()],
        [rates["high"] - rates["median"] for rates in found.values()],
    ]
    figure = Figure(figsize=(7, 2.2), layout="constrained")
    axes = figure.add_subplot()
    colors = ["tab:grey" if case == DECODE else "tab:green" for case in cases]
    bars = axes.barh(cases, medians, xerr=spreads, color=colors)
    axes.bar_label(bars, fmt="%.0f", padding=6)
    axes.set(xlabel="images/s of 12 bands, 264 px", xlim=(0, 1.15 * max(medians)))
    axes.invert_yaxis()
    save_figure(figure, path)


def _verdict(met: bool) -> str:
    return "met" if met else "MISSED"

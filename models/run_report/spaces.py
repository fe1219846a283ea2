"""What each embedding space calls similar, and a map of the embedding with thumbnails."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from models.moco2_module import MocoV2
from models.run_report.interactive import scatter
from models.run_report.page import Section, note, thumbnail
from utils.checkpoint import read_checkpoint
from utils.errors import UserError
from utils.input_spec import InputSpec
from utils.patch_blocks import PatchBlocks
from utils.plots import to_rgb
from utils.progress import progress
from utils.restored import check_tensors

_MAX_PATCHES, _NUM_QUERIES, _NUM_SHOWN, _BATCH = 600, 5, 7, 64
_THUMBNAIL_PX = 64
_MAX_GROUPS = 20
_SEASONS = ("winter", "spring", "summer", "autumn")  # of the northern hemisphere


class Sample(NamedTuple):
    """Some patches of a data set in all embedding spaces.

    Attributes:
        names: Name of each patch, N of them.
        days: Date of each patch, "" if unknown.
        centres: Longitude and latitude, degrees, shape (N, 2); NaN if unknown.
        pictures: RGB, uint8, shape (H, W, 3) each.
        vectors: For each space by name, unit vectors, shape (N, D).
        data: What the data set is, for people.
        digest: Digits that identify it.
    """

    names: list[str]
    days: list[str]
    centres: np.ndarray
    pictures: list[np.ndarray]
    vectors: dict[str, np.ndarray]
    data: str
    digest: str


def load_spaces(path: Path) -> tuple[MocoV2, InputSpec]:
    """Read encoder and heads of a pre-training, in eval mode, and the contract of their input.

    Raises:
        UserError: The file is not the checkpoint of a pre-training.
    """
    checkpoint = read_checkpoint(path)
    try:
        flags = checkpoint["hyper_parameters"]
        spec = InputSpec.from_dict(flags["input_spec"])
        model = MocoV2(**flags)
        check_tensors(checkpoint["state_dict"], model.state_dict(), "state_dict")
        model.load_state_dict(checkpoint["state_dict"])
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise UserError(
            f"{path} is not a checkpoint of main_pretrain.py: name the folder of its run"
        ) from error
    return model.eval(), spec


def embed_sample(model: MocoV2, patches: PatchBlocks, spaces: Sequence[str]) -> Sample:
    """Embed patches spread over a data set, at most ``_MAX_PATCHES``.

    Args:
        model: Pre-trained encoder with its heads, in eval mode.
        patches: The data set, opened for the encoder.
        spaces: Name of each embedding space.
    """
    wanted = {int(n) for n in np.linspace(0, len(patches) - 1, min(len(patches), 12))}
    per_block = -(-_MAX_PATCHES // len(wanted))
    names, days, corners, pictures = [], [], [], []
    for block in progress(sorted(wanted), desc="report", unit=" blocks", leave=False):
        found = patches.read(block)
        rows = _spread(found.ids, per_block)
        names += [found.ids[row] for row in rows]
        days += [found.days[row] for row in rows]
        corners.append(found.corners[rows])
        pictures.append(found.pictures[rows])
    stored = torch.from_numpy(np.concatenate(pictures)[:_MAX_PATCHES])
    count = len(stored)
    outputs: dict[str, list[np.ndarray]] = {name: [] for name in ("encoder", *spaces)}
    with torch.inference_mode():
        for batch in stored.split(_BATCH):
            features = model.encoder_q(patches.transform.normalize(batch))
            for name, head in zip(spaces, model.heads_q, strict=True):
                outputs[name].append(head(features).numpy())
            outputs["encoder"].append(features.numpy())
    vectors = {name: _unit(np.concatenate(parts)) for name, parts in outputs.items()}
    shown = [_thumbnail(picture, patches.transform.spec) for picture in stored.numpy()]
    centres = np.concatenate(corners)[:count].mean(1)
    known = (names[:count], days[:count], centres, shown, vectors)
    return Sample(*known, patches.description, patches.digest)


def space_sections(sample: Sample, explained: Mapping[str, str], trained: str) -> list[Section]:
    """Return the nearest neighbours per space, the map of the embedding and that of the world.

    Args:
        sample: Patches in all spaces.
        explained: Meaning of each space by name.
        trained: Digest of the data of the pre-training; "" if unknown.
    """
    known = "these" if trained == sample.digest else f"of {trained}"
    known = known if trained else "not recorded, which a run does at its end"
    origin = note(
        f"{len(sample.names):,} of {sample.data}, digest {sample.digest}; the data of the "
        f"pre-training are {known}."
    )
    neighbours = origin + _neighbours(sample, explained)
    sections = [Section("What each space calls similar", neighbours)]
    sections.append(Section("Map of the embedding", _embedding_map(sample)))
    known = ~np.isnan(sample.centres).any(1)
    if known.any():
        sections.append(Section("Places", _world_map(sample, np.flatnonzero(known))))
    return sections


def _neighbours(sample: Sample, explained: Mapping[str, str]) -> str:
    """Return, for some queries, a row of the most similar patches per space."""
    count = len(sample.names)
    queries = np.linspace(0, count - 1, min(_NUM_QUERIES, count) + 2)[1:-1].astype(int)
    named = zip(sample.names, sample.days, strict=True)
    places = [name.split("/")[0] if day else name for name, day in named]
    remark = (
        "For each query, the most similar patches of this sample in the encoder's features and in "
        "each space."
    )
    if len(set(places)) < count:
        remark += (
            " In a space that ignores the season, other dates of the query's place should come "
            "first, here framed; in one that does not, patches of the same season."
        )
    parts = [note(remark)]
    for query in queries:
        first = thumbnail(sample.pictures[query], f"query {_caption(sample, query)}")
        rows = []
        for space, vectors in sample.vectors.items():
            similarity = vectors @ vectors[query]
            similarity[query] = -np.inf
            nearest = np.argsort(-similarity, kind="stable")[:_NUM_SHOWN]
            shown = "".join(
                thumbnail(
                    sample.pictures[row],
                    f"{similarity[row]:.3f} {_caption(sample, row)}",
                    is_framed=places[row] == places[query],
                )
                for row in nearest
            )
            title = note(explained.get(space, space))
            rows.append(f'<div class="row">{title}<div class="strip">{shown}</div></div>')
        strip = f'<div class="strip">{first}</div>'
        parts.append(f'<div class="query">{strip}<div>{"".join(rows)}</div></div>')
    return "".join(parts)


def _embedding_map(sample: Sample) -> str:
    features, colors = sample.vectors["encoder"], _groups(sample)
    points = {"PCA": PCA(2, random_state=0).fit_transform(features)}
    if len(features) > 10:
        perplexity = min(30, (len(features) - 1) / 3)
        tsne = TSNE(2, perplexity=perplexity, init="pca", random_state=0)
        points["t-SNE"] = tsne.fit_transform(features)
    views = {
        f"{method} by {kind}" if kind else method: (found, groups)
        for method, found in reversed(points.items())
        for kind, groups in colors.items()
    }
    texts = [_caption(sample, row) for row in range(len(features))]
    return scatter("embedding-map", views, texts, sample.pictures)


def _world_map(sample: Sample, rows: np.ndarray) -> str:
    texts = [_caption(sample, row) for row in rows]
    pictures = [sample.pictures[row] for row in rows]
    views = {"places": (sample.centres[rows], ["patches"] * len(rows))}
    return scatter("world-map", views, texts, pictures, world=_land())


def _groups(sample: Sample) -> dict[str, list[str]]:
    """Return the colours to choose from, season and class or place, where they differ."""
    found = {}
    if any(sample.days):
        found["season"] = [_season(*each) for each in zip(sample.days, sample.centres, strict=True)]
    folders = [name.rsplit("/", 2)[-2] if "/" in name else "all" for name in sample.names]
    kept = {name for name, _ in Counter(folders).most_common(_MAX_GROUPS)}
    found["folder (class or place)"] = [name if name in kept else "others" for name in folders]
    differing = {kind: groups for kind, groups in found.items() if len(set(groups)) > 1}
    return differing or {"": ["patches"] * len(folders)}


def _season(day: str, centre: np.ndarray) -> str:
    if not day:
        return "unknown"
    is_south = centre[1] < 0  # NaN is not
    return _SEASONS[(int(day[5:7]) % 12 // 3 + 2 * is_south) % 4]


def _caption(sample: Sample, row: int) -> str:
    name, day = sample.names[row], sample.days[row]
    return f"{name.split('/')[0][:40]}, {day}" if day else name.rsplit("/", 1)[-1][:40]


def _spread(names: Sequence[str], count: int) -> list[int]:
    """Return neighbouring rows in runs, so that dates of a place stay together."""
    runs = max(1, count // 20)
    starts = np.linspace(0, max(0, len(names) - count // runs), runs).astype(int)
    rows = {int(row) for start in starts for row in range(start, start + count // runs)}
    return sorted(row for row in rows if row < len(names))


def _unit(vectors: np.ndarray) -> np.ndarray:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12))


def _thumbnail(picture: np.ndarray, spec: InputSpec) -> np.ndarray:
    """Return red, green and blue, or the first three bands, reduced: uint8, (h, w, 3)."""
    rgb = to_rgb(picture, spec.bands)
    step = max(1, min(rgb.shape[:2]) // _THUMBNAIL_PX)
    return np.ascontiguousarray(rgb[::step, ::step])


def _land() -> np.ndarray:
    """Return land and sea on a grid of 0.5 degrees, uint8, shape (360, 720, 3)."""
    from global_land_mask import globe

    latitude, longitude = np.mgrid[89.75:-90:-0.5, -179.75:180:0.5]
    shade = np.where(globe.is_land(latitude, longitude), 150, 225).astype(np.uint8)
    return np.repeat(shade[:, :, None], 3, axis=2)

"""The query of a search for similar patches, and a table and a picture of the answer."""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from models.backbones import Encoder
from models.features import encoder_of_pictures
from models.neighbours import Neighbour, describe, embedding_of, parse_point, row_of_point
from utils.errors import UserError, quoted
from utils.patch_blocks import PatchBlocks
from utils.plots import plot_grid, to_rgb

_ROW = re.compile("[0-9]{1,18}")


def check_query(
    query: str, patches: PatchBlocks, read_picture: Callable[[Path], np.ndarray]
) -> None:
    """Refuse, before anything is embedded, a query that no embedding of the imagery answers.

    Args:
        query: A row, a place or a picture file.
        patches: Imagery that is searched.
        read_picture: Reads a file as a patch, uint8, shape (C, H, W).
    """
    if _ROW.fullmatch(query):
        if int(query) >= patches.num_patches:
            raise UserError(
                f"--neighbours {query} is beyond the last row, {patches.num_patches - 1}: lower it"
            )
    elif parse_point(query) is None:
        read_picture(Path(query))
    elif not patches.is_placed:
        raise UserError(
            f"--neighbours {query} is a place, but the imagery has no positions on Earth: query a "
            "row or a picture"
        )


def embed_query(
    args: Namespace,
    encoder: Encoder,
    patches: PatchBlocks,
    read_picture: Callable[[Path], np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """Return the embedding of the query, float32, (D,), and its picture, uint8, (C, H, W).

    Args:
        args: Flags: ``neighbours`` is a row, a place or a picture file.
        encoder: Encoder of the file.
        patches: Imagery of the file.
        read_picture: Reads a file as a patch, uint8, shape (C, H, W).

    Raises:
        UserError: The query is none of them, or outside.
    """
    query, path = args.neighbours, args.save_path
    point = parse_point(query)
    if _ROW.fullmatch(query) or point is not None:
        row = int(query) if point is None else row_of_point(path, *point)
        found = embedding_of(path, row)
        (itself,) = describe(path, np.array([row]), np.ones(1))
        return found, patches.picture(itself.patch)
    picture = read_picture(Path(query))
    device = torch.device("cuda" if args.gpus else "cpu")
    encode = encoder_of_pictures(encoder, patches.transform, device, args.precision)
    return encode(torch.from_numpy(picture[None]))[0].numpy(), picture


def print_neighbours(neighbours: Sequence[Neighbour]) -> None:
    """Print a line per neighbour, the most similar first."""
    head = f"{'rank':>4} {'similarity':>10} {'row':>9} {'latitude':>9} {'longitude':>9}"
    print(f"{head}  {'day':10}  id")
    for rank, each in enumerate(neighbours, 1):
        place = [each.latitude, each.longitude]
        at = " ".join(f"{'-' if degrees is None else f'{degrees:.4f}':>9}" for degrees in place)
        start = f"{rank:4} {each.similarity:10.4f} {each.row:9} {at}"
        print(f"{start}  {each.day or '-':10}  {quoted(each.patch)}")


def plot_neighbours(
    path: Path, query: np.ndarray, neighbours: Sequence[Neighbour], patches: PatchBlocks
) -> None:
    """Draw the query and the patches most similar to it, and write the figure as a PNG.

    Args:
        path: File to write.
        query: Picture of the query, uint8, shape (C, H, W).
        neighbours: The most similar patches.
        patches: Imagery that holds them.
    """
    shown = [query, *(patches.picture(each.patch) for each in neighbours)]
    titles = ["query", *(f"{each.similarity:.3f} {each.day}" for each in neighbours)]
    plot_grid(path, [to_rgb(picture, patches.transform.spec.bands) for picture in shown], titles)

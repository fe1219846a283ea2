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
from models.neighbours import (
    Neighbour,
    describe,
    embedding_of,
    parse_point,
    row_of_patch,
    row_of_point,
)
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
) -> tuple[np.ndarray, np.ndarray, Neighbour | None]:
    """Embed the query, or read its embedding if it is a patch of the file.

    Args:
        args: Flags: ``neighbours`` is a row, a place or a picture file.
        encoder: Encoder of the file.
        patches: Imagery of the file.
        read_picture: Reads a file as a patch, uint8, shape (C, H, W).

    Returns:
        Its embedding, float32, (D,); its picture, uint8, (C, H, W); and what the file says about
        it, None if it is not a patch of the file.

    Raises:
        UserError: The query is none of them, or outside.
    """
    row = _row_of_query(args)
    if row is not None:
        found = embedding_of(args.save_path, row)
        (itself,) = describe(args.save_path, np.array([row]), np.ones(1))
        return found, patches.picture(itself.patch), itself
    picture = read_picture(Path(args.neighbours))
    device = torch.device("cuda" if args.gpus else "cpu")
    encode = encoder_of_pictures(encoder, patches.transform, device, args.precision)
    return encode(torch.from_numpy(picture[None]))[0].numpy(), picture, None


def _row_of_query(args: Namespace) -> int | None:
    """Return the row of a number, of a place, and of a picture file of the data."""
    query, path = args.neighbours, args.save_path
    if _ROW.fullmatch(query):
        return int(query)
    if (point := parse_point(query)) is not None:
        return row_of_point(path, *point)
    file, folder = Path(query).resolve(), args.data_dir.resolve()
    if not file.is_relative_to(folder):
        return None
    return row_of_patch(path, file.relative_to(folder).as_posix())


def print_neighbours(query: Neighbour | None, neighbours: Sequence[Neighbour]) -> None:
    """Print the query, if the file holds it, and a line per neighbour, the most similar first.

    Args:
        query: The patch of the query; None if it is not in the file.
        neighbours: The patches that are most similar to it.
    """
    if query is not None:
        print(f"query: row {query.row}, {quoted(query.patch)}")
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

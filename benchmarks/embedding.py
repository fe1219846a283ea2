"""How fast main_embed.py is: next to the encoder alone, on a whole tile, and at finding neighbours.

The tile has the size of one of Sentinel-2's, 10,980 x 10,980 px, and shows places of the miniature
Earth, repeated and turned. The neighbours are those of one of a million random embeddings.
"""

import resource
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import rasterio
import torch
from rasterio.windows import Window

from benchmarks.timing import interleave, rate
from datasets.mini_earth import write_seco
from datasets.seco.patches import SecoPatches
from models.backbones import load_encoder
from models.embedding import embed_blocks
from models.embedding_files import write_parquet
from models.embedding_parts import Part, Parts
from models.features import encoder_of_pictures
from models.neighbours import nearest
from utils.cli import run
from utils.flags import Parser
from utils.input_spec import DataSpec, input_transform
from utils.launch import World
from utils.patch_blocks import PatchBlock
from utils.precision import auto_precision
from utils.report import provenance, write_json

_SIDE, _PATCH, _BATCH = 10_980, 64, 128
_BANDS = ("B4", "B3", "B2")
_ROOT = Path(__file__).parents[1]
_DIMENSIONS, _ROWS_PER_BLOCK, _SCENE_PX = 512, 1000, 264


class _InMemory:
    """Blocks that cost nothing to read."""

    grid, is_placed = None, False
    description, digest = "random pictures", ""

    def __init__(self, num_blocks: int, transform: Any) -> None:
        self.transform = transform
        size = 4 * _BATCH
        pictures = np.random.default_rng(0).integers(0, 256, (size, 3, _PATCH, _PATCH), np.uint8)
        corners, cells = np.full((size, 4, 2), np.nan), np.empty((size, 0), np.int64)
        ids = [f"{n}" for n in range(size)]
        self.block = PatchBlock(pictures, ids, "memory", [""] * size, corners, cells)
        self.num_blocks, self.num_patches = num_blocks, num_blocks * size

    def __len__(self) -> int:
        return self.num_blocks

    def read(self, block: int) -> PatchBlock:
        return self.block

    def picture(self, patch: str) -> np.ndarray:
        return cast("np.ndarray", self.block.pictures[int(patch)])

    def fingerprint(self) -> str:
        return "memory"


class _RandomParts:
    """Parts of random embeddings, for a file of a million."""

    def __init__(self, count: int) -> None:
        self.num_blocks = count // _ROWS_PER_BLOCK

    def read(self, block: int) -> Part:
        size = _ROWS_PER_BLOCK
        rng = np.random.default_rng(block)
        features = rng.standard_normal((size, _DIMENSIONS), np.float32)
        ids = [f"{block}/{row}" for row in range(size)]
        corners = np.full((size, 4, 2), np.nan)
        return Part(features, ids, "random", [""] * size, corners, np.empty((size, 0), np.int64))

    def __iter__(self) -> Iterator[Part]:
        return map(self.read, range(self.num_blocks))


def parse_args(argv: Sequence[str] | None = None) -> Namespace:
    """Read the command line, or ``argv`` in tests."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--save_path", type=Path, default=Path("logs/embedding.json"), help="file of the results")
    add("--repeats", type=int, default=7, help="rounds")
    add("--blocks", type=int, default=4, help="blocks of 512 patches per round")
    add("--side", type=int, default=_SIDE, help="pixels of the tile")
    add("--count", type=int, default=1_000_000, help="embeddings among which neighbours are found")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print and return all figures."""
    args = parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        results = {
            "overhead": measure_overhead(Path(folder), args.repeats, args.blocks),
            "tile": measure_tile(Path(folder), args.side),
            "neighbours": measure_neighbours(Path(folder), args.count, args.repeats),
        }
    args.save_path.parent.mkdir(parents=True, exist_ok=True)
    write_json(args.save_path, results | provenance(args))
    share, tile, found = (results[name] for name in ("overhead", "tile", "neighbours"))
    print(f"embedding: {100 * share['ratio']:.1f} % of the encoder's own patches/s")
    print(
        f"tile of {args.side} px: {tile['patches']:,} patches in {tile['seconds']:.0f} s, at most "
        f"{tile['peak_mb']:,.0f} MB"
    )
    print(
        f"neighbours among {args.count:,}: {found['median_s']:.2f} s, {found['cpu_s']:.2f} s of CPU"
    )
    return results


def measure_overhead(folder: Path, repeats: int, num_blocks: int) -> dict[str, Any]:
    """Compare an embedding from memory with the encoder alone, in interleaved rounds.

    Args:
        folder: Folder for the finished blocks.
        repeats: Number of rounds.
        num_blocks: Blocks of 512 patches per round.
    """
    device, precision = torch.device("cpu"), auto_precision(False)
    encoder, spec = load_encoder("random", "resnet18", None, _BANDS)
    blocks = _InMemory(
        num_blocks, input_transform(spec, DataSpec.of_reflectance("", _BANDS), "auto")
    )
    encode = encoder_of_pictures(encoder, blocks.transform, device, precision)
    pictures = torch.from_numpy(blocks.block.pictures)

    def alone() -> None:
        for _ in range(num_blocks):
            for batch in pictures.split(_BATCH):
                encode(batch)

    def embedding() -> None:
        parts = Parts(folder / "overhead.npz", {}, num_blocks)
        settings: dict[str, Any] = {"batch_size": _BATCH, "num_threads": 1, "dtype": "float32"}
        where: dict[str, Any] = {"device": device, "precision": precision, "world": World()}
        embed_blocks(encoder, blocks, parts, **settings, **where)
        parts.remove()

    count = blocks.num_patches
    cases = {"alone": rate(alone, count, device), "embedding": rate(embedding, count, device)}
    alone()  # the first pass allocates
    rates = interleave(cases, repeats)
    ratio = rates["embedding"].per_cpu_second().over(rates["alone"].per_cpu_second())
    by_clock = rates["embedding"].over(rates["alone"])
    summaries = {name: case.summary() for name, case in rates.items()}
    return summaries | {"ratio": ratio, "ratio_by_clock": by_clock, "precision": precision}


def measure_tile(folder: Path, side: int) -> dict[str, Any]:
    """Embed a raster in a process of its own; return its time and largest memory.

    Args:
        folder: Folder for the raster.
        side: Pixels along each side of it.
    """
    write_tile(folder / "tile.tif", folder / "seco", side)
    command = [sys.executable, str(_ROOT / "main_embed.py"), "--data_dir", str(folder / "tile.tif")]
    command += ["--backbone_type", "random", "--bands", *_BANDS, "--patch_size", str(_PATCH)]
    started = time.perf_counter()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([*command, "--save_path", str(folder / "tile.parquet")], check=True, cwd=_ROOT)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "patches": (side // _PATCH) ** 2,
        "seconds": time.perf_counter() - started,
        "cpu_s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "peak_mb": after.ru_maxrss / 1024,
    }


def write_tile(path: Path, scratch: Path, side: int) -> None:
    """Write a raster of places of the miniature Earth, each at random and turned.

    Args:
        path: File to write.
        scratch: Folder for the places.
        side: Pixels along each side.
    """
    write_seco(scratch, num_places=24, num_dates=2, bands=_BANDS, size=_SCENE_PX)
    places = SecoPatches(scratch, _BANDS)
    scenes = [places.read(patch) for patch in range(int(places.starts[-1]))]
    rng = np.random.default_rng(0)
    profile = {"driver": "GTiff", "width": side, "height": side, "count": 3, "dtype": "uint16"}
    profile |= {"tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "deflate"}
    profile |= {"crs": "EPSG:32631", "transform": rasterio.Affine(10, 0, 4e5, 0, -10, 5.5e6)}
    with rasterio.open(path, "w", **profile) as file:
        for top in range(0, side, 512):
            for left in range(0, side, 512):
                window = Window(left, top, min(512, side - left), min(512, side - top))
                turned = [
                    np.rot90(scenes[rng.integers(len(scenes))], int(rng.integers(4)), (1, 2))
                    for _ in range(4)
                ]
                block = np.concatenate([np.concatenate(turned[k : k + 2], 2) for k in (0, 2)], 1)
                dn = block[:, : window.height, : window.width].astype(np.uint16) * 39 + 1
                file.write(dn, window=window)
        for band, name in enumerate(_BANDS, 1):
            file.set_band_description(band, name)


def measure_neighbours(folder: Path, count: int, repeats: int) -> dict[str, Any]:
    """Find the ten nearest of random embeddings.

    Args:
        folder: Folder for their file.
        count: Number of embeddings.
        repeats: Number of searches.
    """
    path = folder / "many.parquet"
    parts = _RandomParts(count)
    write_parquet(path, cast("Parts", parts), {})
    query = parts.read(parts.num_blocks // 2).features[7]
    seconds, cpu = [], []
    for _ in range(repeats):
        started, cpu_started = time.perf_counter(), time.process_time()
        found = nearest(path, query, 10, 2)
        seconds.append(time.perf_counter() - started)
        cpu.append(time.process_time() - cpu_started)
    assert found[0].patch == f"{parts.num_blocks // 2}/7"
    return {
        "median_s": float(np.median(seconds)),
        "cpu_s": float(np.median(cpu)),
        "seconds": seconds,
    }


if __name__ == "__main__":
    run(main)

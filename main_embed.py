r"""Embed any imagery with any encoder: GeoTIFFs and VRTs of any size, data sets, own pictures.

One row per patch of 64 x 64 px, with its place on Earth, as GeoParquet:
  python main_embed.py --data_dir scene.tif --raster_bands B2 B3 B4 --patch_size 64 \
    --backbone_type pretrain --ckpt_path checkpoints/seco_resnet18_1m.ckpt --save_path e.parquet

The ten patches that are most similar to the one at a place (latitude, longitude):
  python main_embed.py --data_dir scene.tif --raster_bands B2 B3 B4 --patch_size 64 \
    --backbone_type pretrain --ckpt_path checkpoints/seco_resnet18_1m.ckpt --save_path e.parquet \
    --neighbours 48.8584,2.2945

The same command resumes an interrupted embedding. torchrun and srun share it among processes.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models import embed_args as flags
from utils.cli import run, share_cores
from utils.config_file import with_config
from utils.errors import UserError
from utils.launch import planned_world
from utils.launchers import launcher
from utils.locks import sole_writer
from utils.precision import resolve_precision

# torch takes seconds to import: functions import it, so that --help and wrong flags are answered
# at once.
if TYPE_CHECKING:
    from models.backbones import Encoder
    from models.neighbours import Neighbour
    from utils.input_spec import InputSpec
    from utils.launch import World
    from utils.patch_blocks import PatchBlocks


def parse_args(argv: Sequence[str] | None = None) -> Namespace:
    """Read the command line, or ``argv`` in tests."""
    parser = flags.embed_parser(__doc__)
    return parser.parse_args(with_config(parser, argv))


def main(argv: Sequence[str] | None = None) -> list[Neighbour]:
    """Write the embedding unless it exists, and return the neighbours of the query, if any."""
    args = parse_args(argv)
    flags.check_embed_flags(args)
    args.protocol = "corrected"  # of the precision
    world = planned_world(args)
    if world.size > 1 and launcher() not in ("torchrun", "srun"):
        raise UserError(
            f"{world.size} processes share an embedding only if torchrun or srun starts them: use "
            f"torchrun --nproc_per_node {world.size} main_embed.py with the other flags"
        )
    resolve_precision(args, world.rank)
    share_cores(args.gpus, world.per_node, 0)
    import torch

    from datasets.imagery_dataset import read_query
    from models.backbones import load_encoder
    from models.embedding_parts import identity_of
    from models.neighbour_views import check_query

    torch.manual_seed(args.seed)
    encoder, spec = load_encoder(args.backbone_type, args.base_encoder, args.ckpt_path, args.bands)
    patches = open_patches(args, spec)
    identity = identity_of(encoder, patches, args.precision, args.dtype)
    if args.components is not None:
        check_components(args.components, encoder.num_features)
        identity["components"] = str(args.components)
    if args.neighbours is not None:
        check_query(args.neighbours, patches, partial(read_query, patches=patches))
    if not is_embedded(args.save_path, identity):
        embed(args, world, encoder, patches, identity)
    if args.neighbours is None or world.rank > 0:
        return []
    return find_neighbours(args, encoder, patches)


def check_components(count: int, dimensions: int) -> None:
    """Refuse more principal components than the features have dimensions."""
    if count > dimensions:
        raise UserError(f"--components {count}: the encoder has {dimensions} dimensions, use fewer")


def open_patches(args: Namespace, spec: InputSpec) -> PatchBlocks:
    """Open the imagery for the encoder."""
    from datasets.imagery.rasters import RasterFlags
    from datasets.imagery_dataset import open_imagery

    size = args.patch_size or flags.WINDOW_PX
    division = RasterFlags(
        size, args.stride or size, args.scale, args.raster_bands, args.max_nodata
    )
    patches = open_imagery(
        args.data_dir,
        spec,
        division,
        size=args.patch_size,
        image_list=args.image_list,
        on_bad_patch=args.on_bad_patch,
    )
    if patches.grid is None and args.save_path.suffix == ".tif":
        raise UserError(
            f"--save_path {args.save_path} is for a single raster, which {args.data_dir} is not: "
            "write .parquet or .npz"
        )
    return patches


def is_embedded(path: Path, identity: dict[str, str]) -> bool:
    """Return whether a file holds this embedding; another one is refused, and never replaced."""
    if not path.exists():
        return False
    from models.embedding_files import read_identity

    found = read_identity(path)
    changed = [name for name in identity if found.get(name) != identity[name]]
    if changed:
        raise UserError(
            f"{path} is an embedding of another {changed[0]}: choose another --save_path, or move "
            "the file away"
        )
    print(f"complete: {path} exists", file=sys.stderr)
    return True


def embed(
    args: Namespace, world: World, encoder: Encoder, patches: PatchBlocks, identity: dict[str, str]
) -> None:
    """Compute what is missing; the first process writes the file."""
    import torch

    from models.embedding import embed_blocks, wait_for
    from models.embedding_files import write_embedding
    from models.embedding_parts import Parts

    work: dict[str, Any] = {"batch_size": args.batch_size, "num_threads": args.num_workers}
    work |= {"precision": args.precision, "dtype": args.dtype, "world": world}
    device = torch.device("cuda", world.rank % world.per_node) if args.gpus else torch.device("cpu")
    busy = f"another process writes {args.save_path}: wait for it, or choose another --save_path"
    if world.rank > 0:
        parts = Parts(args.save_path, identity, len(patches))
        embed_blocks(encoder, patches, parts, device=device, **work)
        return
    lock = args.save_path.with_name(f"{args.save_path.name}.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    with sole_writer(lock, busy):
        if is_embedded(args.save_path, identity):  # meanwhile, by another process
            return
        parts = Parts(args.save_path, identity, len(patches))
        print(f"embedding {patches.description}", file=sys.stderr)
        embed_blocks(encoder, patches, parts, device=device, **work)
        if world.size > 1:
            wait_for(parts)
        count = write_embedding(args, parts, patches, identity)
        parts.remove()
    print(f"embedding: {args.save_path}, {count:,} patches of {encoder.num_features} dimensions")


def find_neighbours(args: Namespace, encoder: Encoder, patches: PatchBlocks) -> list[Neighbour]:
    """Print the most similar patches, and write them as a table and a picture."""
    from datasets.imagery_dataset import read_query
    from models import neighbour_views, neighbours

    read = partial(read_query, patches=patches)
    query, shown, itself = neighbour_views.embed_query(args, encoder, patches, read)
    row = itself and itself.row
    found = neighbours.nearest(args.save_path, query, args.num_neighbours, args.num_workers, row)
    stem = args.save_path.with_suffix("")
    neighbours.write_table(Path(f"{stem}_neighbours.csv"), found)
    neighbour_views.plot_neighbours(Path(f"{stem}_neighbours.png"), shown, found, patches)
    neighbour_views.print_neighbours(itself, found)
    print(f"neighbours: {stem}_neighbours.csv, {stem}_neighbours.png")
    return found


if __name__ == "__main__":
    run(main, resumes=True)

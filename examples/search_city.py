r"""Find the patches of a city that look like the one at a place.

python -m examples.search_city --data_dir city.tif --ckpt_path last.ckpt --place 48.8584,2.2945

Writes into --save_dir: city.parquet (read by geopandas and QGIS), city_neighbours.csv and .png, and
city_map.png, the similarity of every patch.
"""

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import main_embed
from models.neighbours import parse_point, row_of_point
from utils.cli import run
from utils.errors import UserError
from utils.flags import Parser


def parse_args(argv: Sequence[str] | None = None) -> Namespace:
    """Read the command line, or ``argv`` in tests."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--data_dir", required=True, help="GeoTIFF or VRT of any size.")
    add("--ckpt_path", required=True, help="Encoder.")
    add("--place", required=True, help="LATITUDE,LONGITUDE of what to look for.")
    add("--save_dir", type=Path, default=Path("logs/search_city"), help="Folder to write into.")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> Path:
    """Search, and return the map."""
    args = parse_args(argv)
    if (place := parse_point(args.place)) is None:
        raise UserError(f"--place {args.place} is not LATITUDE,LONGITUDE: write 48.8584,2.2945")
    table_path: Path = args.save_dir / "city.parquet"
    encoder = ["--backbone_type", "pretrain", "--ckpt_path", args.ckpt_path]
    files = ["--data_dir", args.data_dir, "--save_path", str(table_path), "--stride", "32"]
    # Embeds only once: another place is answered from the file.
    main_embed.main([*encoder, *files, "--neighbours", args.place])

    import numpy as np
    import pyarrow.parquet as pq
    from matplotlib.figure import Figure

    table = pq.read_table(table_path)
    vectors = np.stack(table["embedding"].to_numpy())  # (patches, dimensions)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    query = vectors[row_of_point(table_path, *place)]
    west, south, east, north = (s.to_numpy() for s in table["bbox"].combine_chunks().flatten())
    axes = (figure := Figure(figsize=(6, 5), layout="constrained")).subplots()
    figure.colorbar(axes.scatter((west + east) / 2, (south + north) / 2, 60, vectors @ query))
    axes.set(xlabel="longitude", ylabel="latitude", title=f"similarity to {args.place}")
    figure.savefig(path := table_path.with_name("city_map.png"))
    print(f"map: {path}")
    return path


if __name__ == "__main__":
    run(main)

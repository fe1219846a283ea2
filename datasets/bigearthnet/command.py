r"""Write BigEarthNet as an LMDB, which is read many times faster than its GeoTIFFs.

    python datasets/bigearthnet_dataset.py --data_dir BigEarthNet --save_dir BigEarthNet-LMDB

``--data_dir`` holds BigEarthNet-v1.0/ and the lists of splits, snow and clouds, or BigEarthNet-S2/
and metadata.parquet of v2. The same command resumes an interrupted run.
"""

from collections.abc import Sequence
from pathlib import Path

from datasets.bands import ALL_BANDS, check_bands
from utils.cli import print_next
from utils.cores import available_cores
from utils.files import check_can_write, check_exists
from utils.flags import Parser, check_not_negative

_BANDS_HELP = "Bands to store; B4 B3 B2 need half of the disk space."


def main(argv: Sequence[str] | None = None) -> None:
    """Write the LMDB."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--data_dir", type=Path, required=True, help="Folder of BigEarthNet v1 or v2.")
    add("--save_dir", type=Path, required=True, help="Folder of the LMDB to write.")
    add("--bands", nargs="+", metavar="BAND", default=list(ALL_BANDS), help=_BANDS_HELP)
    add("--num_workers", type=int, default=available_cores(), help="Reader processes.")
    args = parser.parse_args(argv)
    check_not_negative(args, "num_workers")
    check_exists("data_dir", args.data_dir)
    check_can_write("save_dir", args.save_dir, is_folder=True)
    bands = check_bands(args.bands)
    from datasets.bigearthnet.index import check_presence, find_folder
    from datasets.bigearthnet.lists import left_out_text
    from datasets.bigearthnet.writer import write_lmdb

    source, listing = find_folder(args.data_dir)
    check_presence(listing.names, source)
    write_lmdb(source, listing, args.save_dir, bands, args.num_workers)
    written = f"{len(listing.names):,} patches of {len(bands)} bands"
    print(f"{args.save_dir}: {written}{left_out_text(listing.left_out)}")
    flags = ("--lmdb", "--backbone_type", "random", "--freeze_backbone", "--learning_rate", "1e-3")
    print_next("main_bigearthnet.py", "--data_dir", args.save_dir, *flags)

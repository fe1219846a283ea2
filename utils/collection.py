"""What belongs together among the files to download, how it is fetched, and the command line."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from utils.cli import print_next
from utils.download import Patience, RemoteFile, fetch
from utils.extract import extract
from utils.flags import Parser


@dataclass(frozen=True)
class Collection:
    """Files that are of use together.

    Attributes:
        about: What it is, for a list.
        size: Of its files together, in words, for their exact sizes are not all recorded.
        files: What to download.
        unpack: Folder to make: names of its archive's pieces in order. Other archives are read as
            they are.
        note: What a user has to know besides.
        next_command: Script and flags of what usually comes next; "{}" is the folder.
    """

    about: str
    size: str
    files: tuple[RemoteFile, ...]
    unpack: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    note: str = ""
    next_command: tuple[str, ...] = ()


def download(collection: Collection, folder: Path, patience: Patience | None = None) -> None:
    """Fetch every file that is not there, and unpack; what is done already is skipped.

    Args:
        collection: What to get.
        folder: Where to put it.
        patience: When to give an address up.
    """
    done = {name for name in collection.unpack if (folder / name).exists()}
    for name in sorted(done):
        print(f"{folder / name} is there already, as it was unpacked")
    unneeded = {part for name in done for part in collection.unpack[name]}
    for file in collection.files:
        if file.name not in unneeded:
            fetch(file, folder, patience)
    for name, parts in collection.unpack.items():
        if name not in done:
            extract([folder / part for part in parts], folder / name)
            print(f"unpacked: {folder / name}; {' '.join(parts)} may be deleted now")
    print(f"downloaded: {folder}")
    if collection.note:
        print(collection.note)
    if collection.next_command:
        print_next(*(part.replace("{}", str(folder)) for part in collection.next_command))


def print_list(collections: Mapping[str, Collection]) -> None:
    """Print name, size, licence and content of each."""
    width = max(len(name) for name in collections)
    for name, collection in collections.items():
        licences = ", ".join(sorted({file.licence for file in collection.files}))
        print(f"{name:<{width}}  {collection.size:>8}  {licences:<20}  {collection.about}")


def download_or_list(
    description: str | None,
    collections: Mapping[str, Collection],
    argv: Sequence[str] | None,
    save_path: Path | None = None,
) -> None:
    """Do what the command line of a download script asks for.

    Args:
        description: Of the script.
        collections: What it offers, by name.
        argv: Arguments, those of the process if None.
        save_path: Default folder; without one the flag is needed.
    """
    parser = Parser(description)
    add = parser.add_argument
    add("name", nargs="?", choices=collections, help="Name of what to download.")
    add("--save_path", type=Path, default=save_path, help="Folder to download into.")
    add("--list", action="store_true", help="Print names, sizes, licences and contents.")
    args = parser.parse_args(argv)
    if args.list:
        print_list(collections)
    elif args.name is None or args.save_path is None:
        parser.error("give a name and --save_path, or --list")
    else:
        download(collections[args.name], args.save_path)

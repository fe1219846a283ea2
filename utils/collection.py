"""Groups of files to download and unpack, and the command line for them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from utils.cli import print_next
from utils.download import RemoteFile, fetch
from utils.flags import Parser
from utils.unpack import unpack


@dataclass(frozen=True)
class Collection:
    """Files that are used together.

    Attributes:
        about: Description for the list.
        size: Size of all files together, as text, because not all exact sizes are recorded.
        files: Files to download.
        unpack: For each folder to create, the names of the pieces of its archive, in order, which
            are among ``files``. Other archives are read without unpacking.
        note: Sentence to print at the end.
        next_command: Script and flags of the usual next step; "{}" stands for the folder.
    """

    about: str
    size: str
    files: tuple[RemoteFile, ...]
    unpack: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    note: str = ""
    next_command: tuple[str, ...] = ()


def download(collection: Collection, folder: Path) -> None:
    """Download, verify and unpack a collection into a folder; finished steps are skipped.

    Args:
        collection: Files, and what is unpacked from them.
        folder: Folder to download into; it is created.
    """
    done = {name for name in collection.unpack if (folder / name).exists()}
    for name in sorted(done):
        print(f"{folder / name} exists already, unpacked")
    unneeded = {part for name in done for part in collection.unpack[name]}
    for file in collection.files:
        if file.name not in unneeded:
            fetch(file, folder)
    for name, parts in collection.unpack.items():
        if name not in done:
            unpack([folder / part for part in parts], folder / name)
            print(f"unpacked: {folder / name}; {' '.join(parts)} may be deleted now")
    print(f"downloaded: {folder}")
    if collection.note:
        print(collection.note)
    if collection.next_command:
        print_next(*(part.replace("{}", str(folder)) for part in collection.next_command))


def download_or_list(
    description: str | None,
    collections: Mapping[str, Collection],
    argv: Sequence[str] | None,
    save_path: Path | None = None,
) -> None:
    """Run a download script.

    Args:
        description: Text above the flags, with example commands.
        collections: Collections by the name that the command line gives.
        argv: Command line without the script's name; None takes that of the process.
        save_path: Default of ``--save_path``; None makes the flag required.
    """
    parser = Parser(description)
    add = parser.add_argument
    add("name", nargs="?", choices=collections, help="Collection to download.")
    add("--save_path", type=Path, default=save_path, help="Folder to download into.")
    add("--list", action="store_true", help="Print all collections with size and licence.")
    args = parser.parse_args(argv)
    if args.list:
        width = max(map(len, collections))
        for name, one in collections.items():
            licences = ", ".join(sorted({file.licence for file in one.files}))
            print(f"{name:<{width}}  {one.size:>8}  {licences:<20}  {one.about}")
    elif args.name is None or args.save_path is None:
        needed = "a name" if save_path else "a name and --save_path"
        parser.error(f"give {needed}, or --list")
    else:
        download(collections[args.name], args.save_path)

"""Mutated archives, databases, manifests and lists through their readers, in children."""

import json
import shutil
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.mutations import damage, damage_json, damage_lines
from benchmarks.reliability_files import Case, failure_of
from benchmarks.trials import Attempt, Trial, in_children

LINES, JSON = (damage, damage_lines, damage_lines), (damage, *4 * (damage_json,))


def tables(start: int, stop: int, folder: Path) -> Iterator[Trial]:
    """Read a mutated LMDB, parquet file, zip, manifest or list, for each trial.

    Args:
        start: Number of the first trial.
        stop: Number after the last trial.
        folder: Scratch folder.
    """
    cases = table_cases(folder)
    whole = [case.path.read_bytes() for case in cases]

    def attempt(number: int) -> Attempt:
        at = number % len(cases)
        case, name = cases[at], str(cases[at].path.relative_to(folder))
        way = case.ways[number // len(cases) % len(case.ways)]
        what, data = way(whole[at], np.random.default_rng([16, number]))

        def run() -> str | None:
            failure = failure_of(name, case, data)
            case.path.write_bytes(whole[at])
            return failure

        return f"{number}: {name}, {what}", run

    yield from in_children(attempt, start, stop)


def table_cases(folder: Path) -> list[Case]:
    """Write whole data sets, and return their files that are not images, with their readers.

    Args:
        folder: Scratch folder; what is in it is deleted.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return [*_patch_cases(folder), *_label_cases(folder), *_collection_cases(folder)]


def _patch_cases(folder: Path) -> Iterator[Case]:
    """Yield the files of pre-training data."""
    from datasets.mini_earth import write_seco
    from datasets.seco.patches import SecoPatches
    from datasets.seco.pictures import Pictures
    from datasets.store.litdata import StreamedPlaces
    from datasets.store.litdata_writer import write_litdata
    from datasets.store.reader import PackedStore
    from datasets.store.writer import pack

    def read_patches(source: Any) -> None:
        assert source.input_spec
        for patch in range(min(int(source.starts[-1]), 100)):
            source.read(patch)

    root, bands = folder / "seco", ("B4", "B3", "B5")
    write_seco(root, num_places=3, num_dates=2, size=24, bands=bands, num_workers=1)
    quantiles = {"quantiles": {"B5": [3, 90]}}
    (root / "quantiles.json").write_text(json.dumps(quantiles))
    archive = folder / "zip/seco.zip"
    archive.parent.mkdir()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(root.rglob("*.*")):
            file.write(path, path.relative_to(root))
    yield Case(archive, lambda: read_patches(SecoPatches(archive, bands)))
    yield Case(root / "quantiles.json", lambda: SecoPatches(root, bands).input_spec, JSON)
    store, chunks = folder / "store", folder / "chunks"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pack(SecoPatches(root, bands), store, 0)
        write_litdata(SecoPatches(root, bands), chunks)
    for name in ("manifest.json", "quantiles.json"):
        shutil.copytree(store, folder / f"store {name}")
        if name == "quantiles.json":
            (folder / f"store {name}/{name}").write_text(json.dumps(quantiles))
        each = folder / f"store {name}"
        yield Case(each / name, lambda each=each: read_patches(PackedStore(each)), JSON)  # type: ignore[misc]
    for name in ("places.json", "index.json"):
        yield Case(chunks / name, lambda: read_patches(StreamedPlaces(chunks)), JSON)
    for path in chunks.glob("*.bin"):
        yield Case(path, lambda: read_patches(StreamedPlaces(chunks)))
    pictures = folder / "pictures"
    pictures.mkdir()
    for path in sorted(root.rglob("B4.tif")):
        shutil.copy(path, pictures / f"{path.parent.name}.tif")
    names = sorted(path.name for path in pictures.iterdir())
    listed = folder / "list/names.txt"
    listed.parent.mkdir()
    listed.write_text("\n".join(names))
    yield Case(listed, lambda: Pictures(pictures, listed), LINES)


def _label_cases(folder: Path) -> Iterator[Case]:
    """Yield the files of labelled data."""
    from datasets.bigearthnet.index import find_folder, open_bigearthnet
    from datasets.bigearthnet.lmdb_store import PatchLmdb
    from datasets.bigearthnet.writer import write_lmdb
    from datasets.eurosat_dataset import EurosatDataset
    from datasets.mini_earth import write_bigearthnet, write_eurosat, write_oscd
    from datasets.oscd.files import listed_cities

    root, database = folder / "bigearthnet", folder / "lmdb"
    write_bigearthnet(root, num_patches=20, num_workers=1)
    source, listing = find_folder(root)
    write_lmdb(source, listing, database, ["B4", "B5"], 0)

    def read_database() -> None:
        database_source = PatchLmdb(database)
        for name in sorted(database_source.names())[:20]:
            database_source.read(name, ["B4", "B5"])

    yield from 4 * [Case(database / "data.mdb", read_database)]
    table = database / "metadata.parquet"
    yield from 2 * [Case(table, lambda: open_bigearthnet(database, lmdb=True))]
    labels = next(root.rglob("*labels_metadata.json"))
    yield Case(labels, lambda: open_bigearthnet(root), JSON)
    for path in sorted(root.glob("*.[ct]*")):
        yield Case(path, lambda: find_folder(root), LINES)
    eurosat = folder / "EuroSAT_RGB"
    write_eurosat(eurosat, images_per_class=2, size=12, num_workers=1)
    archive = folder / "eurosat/EuroSAT_RGB.zip"
    archive.parent.mkdir()
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(eurosat.rglob("*.*")):
            file.write(path, path.relative_to(eurosat))

    def read_pictures() -> None:
        dataset = EurosatDataset(archive)
        for index in range(len(dataset)):
            assert dataset[index]

    yield Case(archive, read_pictures)
    for split in ("train", "val", "test"):
        names = [str(path.relative_to(eurosat)) for path in sorted(eurosat.rglob("*.jpg"))]
        part = names[("train", "val", "test").index(split) :: 3]
        (eurosat / f"{split}.txt").write_text("\n".join(part))
    yield Case(eurosat / "train.txt", lambda: EurosatDataset(eurosat, "train"), LINES)
    oscd = folder / "oscd"
    write_oscd(oscd, num_cities=2, size=24, num_workers=1)
    yield Case(oscd / "train.txt", lambda: listed_cities(oscd), LINES)


def _collection_cases(folder: Path) -> Iterator[Case]:
    """Yield the files of a collection, and answers of its services."""
    from datasets.collect.cities import read_city_table
    from datasets.collect.ee_answers import decode
    from datasets.collect.journal import Journal, Record
    from datasets.collect.places import read_match_file
    from datasets.collect.plan import make_plan, read_plan, write_plan
    from datasets.collect.report import summarise
    from datasets.collect.settings import Settings
    from datasets.collect.stac_items import parse

    root = folder / "collection"
    root.mkdir()
    bounds = (8.0, 45.0, 9.0, 46.0)
    settings = Settings(
        num_locations=4,
        sampler="bounded",
        bounds=bounds,
        land_mask=False,
        reference_date="2021-01-01",
    )
    plan = make_plan(settings)
    write_plan(root, plan)
    with Journal(root, plan.hash).opened() as journal:
        journal.add(Record(0, "done", scenes=("20200101T101010_20200101T101011_T32UQD",)))
        journal.add(Record(1, "cloudy", reason="clouds"))
    status = {"plan": plan.hash, "requests": 3, "errors": {"HTTP 429": 1}, "places_per_s": 0.5}
    status |= {"updated": "2099-01-01T00:00:00+00:00", "ending": "", "reason": ""}
    (root / "status.json").write_text(json.dumps(status))
    for name, ways in (("plan.json", JSON), ("places.csv", LINES)):
        yield Case(root / name, lambda: read_plan(root), ways)
    for name, ways in (("journal.jsonl", LINES), ("status.json", JSON)):
        yield Case(root / name, lambda: summarise(root, plan), ways)
    lists = folder / "lists"
    lists.mkdir()
    match, cities = lists / "match.csv", lists / "cities.csv"
    match.write_text("lat,lng,shift_days\n45.5,8.5,3\n46.5,9.5,0\n")
    cities.write_text("city,lat,lng,population\nA,45.5,8.5,1000\nB,46.5,9.5,\n")
    sizes = {"seed": 0, "patch_px": 264, "max_shift_days": 30}
    yield Case(match, lambda: read_match_file(match, **sizes), LINES)
    yield Case(cities, lambda: read_city_table(str(cities)), LINES)
    answers = folder / "answers"
    answers.mkdir()
    answer, item = answers / "answer.npy", answers / "item.json"
    np.save(answer, np.zeros((6, 6), np.dtype([("B4", "<u2"), ("B3", "<u2")])))
    yield Case(answer, lambda: decode(answer.read_bytes(), ("B4", "B3"), 6))
    item.write_text(json.dumps(_ITEM))

    def read_item() -> None:
        try:
            content = json.loads(item.read_bytes())
        except (ValueError, RecursionError):  # the library's matter
            return
        parse(content, ("B4",))

    yield Case(item, read_item, JSON)


_ITEM = {
    "id": "S2A_MSIL2A_20200101T101010_N0213_R022_T32UQD_20200101T121212",
    "properties": {
        "datetime": "2020-01-01T10:10:10Z",
        "eo:cloud_cover": 3.5,
        "proj:epsg": 32632,
        "grid:code": "MGRS-32UQD",
        "s2:processing_baseline": "02.13",
        "earthsearch:boa_offset_applied": False,
    },
    "assets": {
        "red": {"href": "https://a.b/B04.tif", "type": "image/tiff; application=geotiff"},
        "scl": {"href": "https://a.b/SCL.tif", "type": "image/tiff; application=geotiff"},
    },
}

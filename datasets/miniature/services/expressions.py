"""Evaluates the expressions that the collector sends to Earth Engine, over the made-up archive.

Images are lazy: functions of UTM coordinates. What the collector does not use is not here; an
unknown function is an error that names it, as from the real service.
"""

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import date
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datasets.collect.utm import to_utm, utm_epsg
from datasets.miniature.services.catalogue import BANDS_M, Catalogue, Granule, pixel_centres

Array = NDArray[Any]
Pixels = Callable[[Array, Array], Array]  # of easting and northing
S2 = "COPERNICUS/S2_SR_HARMONIZED"
CLOUD_SCORE = "GOOGLE/CLOUD_SCORE_PLUS/V1/S2_HARMONIZED"
CLEAR, CLOUDY = 0.9, 0.1  # cloud scores


@dataclass(frozen=True)
class Band:
    """Values, and where they are."""

    values: Pixels
    mask: Pixels


@dataclass(frozen=True)
class Image:
    """Bands in order, properties, and the scene that it comes from."""

    bands: dict[str, Band]
    properties: dict[str, Any]
    granule: Granule | None = None


@dataclass(frozen=True)
class Rectangle:
    """Left, bottom, right, top in metres of a UTM zone."""

    epsg: int
    bounds: tuple[float, float, float, float]


@dataclass(frozen=True)
class Collection:
    """A collection that has not been looked into."""

    id: str
    filters: tuple[Any, ...] = ()
    functions: tuple[Callable[[Any], Any], ...] = ()
    limit: int | None = None


@dataclass(frozen=True)
class Reference:
    """A coordinate system by its code."""

    epsg: int


@dataclass
class Evaluator:
    """Evaluates expressions.

    Attributes:
        catalogue: The archive.
        other_zones: Also list each scene once more under the next zone, as near a border.
        remembers: Look once for the scenes of a place in some windows, whatever is measured there.
        searched: How often scenes were looked for around each point.
    """

    catalogue: Catalogue
    other_zones: bool = True
    remembers: bool = False
    searched: Counter[Rectangle] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)
    table: dict[str, Callable[..., Any]] = field(init=False)
    _found: dict[str, list[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Fill the table of functions."""
        self.table = {
            "ImageCollection.load": lambda id, **_: Collection(id),
            "Collection.filter": _filter,
            "Collection.map": lambda collection, baseAlgorithm, **_: replace(
                collection, functions=(*collection.functions, baseAlgorithm)
            ),
            "Collection.toList": lambda collection, count, **_: self.elements(collection)[
                : int(count)
            ],
            "Collection.limit": lambda collection, limit, **_: replace(collection, limit=limit),
            "Collection.size": self._size,
            "Image.linkCollection": self._link,
            "Filter.intersects": lambda leftField, rightValue, **_: (
                "where",
                rightValue["geometry"] if isinstance(rightValue, dict) else rightValue,
            ),
            "Filter.or": lambda filters: ("or", filters),
            "Filter.dateRangeContains": lambda leftValue, rightField: ("when", leftValue),
            "Filter.lessThan": lambda leftField, rightValue: ("less", leftField, rightValue),
            "DateRange": lambda start, end: (_date(start), _date(end)),
            "Projection": lambda crs, **_: Reference(int(str(crs).rpartition(":")[2])),
            "Feature": lambda geometry=None, metadata=None, **_: {
                "type": "Feature",
                "geometry": geometry,
                "properties": dict(metadata or {}),
            },
            "GeometryConstructors.Polygon": _rectangle,
            "GeometryConstructors.Rectangle": _rectangle,
            "GeometryConstructors.Point": _point,
            "Image.select": lambda input, bandSelectors, **_: replace(
                input, bands={name: input.bands[name] for name in bandSelectors}
            ),
            "Image.rename": lambda input, names: replace(
                input, bands=dict(zip(names, input.bands.values(), strict=True))
            ),
            "Image.addBands": lambda dstImg, srcImg, **_: replace(
                dstImg, bands=dstImg.bands | srcImg.bands
            ),
            "Image.mask": _mask,
            "Image.unmask": _unmask,
            "Image.gte": _gte,
            "Image.constant": lambda value: Image({"constant": _constant(value)}, {}),
            "Image.reduceRegion": _reduce_region,
            "Reducer.mean": lambda: "mean",
            "Element.copyProperties": lambda destination, source, properties, **_: _set(
                destination,
                {p: source.properties[p] for p in properties if p in source.properties},
            ),
            "Element.set": lambda object, key, value: _set(object, {key: value}),
            "Element.get": lambda object, property: object.properties[property],
        }

    def evaluate(self, expression: dict[str, Any]) -> Any:
        """Return the value of an expression; an unknown function is a ``LookupError``."""
        values = expression["values"]

        def value_of(node: dict[str, Any], names: dict[str, Any]) -> Any:
            [(kind, content)] = node.items()
            if kind == "constantValue":
                return content
            if kind == "integerValue":
                return int(content)
            if kind == "valueReference":
                return value_of(values[content], names)
            if kind == "argumentReference":
                return names[content]
            if kind == "arrayValue":
                return [value_of(item, names) for item in content["values"]]
            if kind == "dictionaryValue":
                return {key: value_of(item, names) for key, item in content["values"].items()}
            if kind == "functionDefinitionValue":
                arguments = content["argumentNames"]
                return lambda *given: value_of(
                    values[content["body"]], names | dict(zip(arguments, given, strict=True))
                )
            name = content["functionName"]
            if name not in self.table:
                raise LookupError(f"Function '{name}' is not known.")
            given = {key: value_of(item, names) for key, item in content["arguments"].items()}
            return self.table[name](**given)

        return value_of(values[expression["result"]], {})

    def elements(self, collection: Collection) -> list[Any]:
        """Return the images of a collection, each after its function."""
        if collection.id != S2:
            raise _not_found(collection)
        where: list[Rectangle] = [f[1] for f in collection.filters if f[0] == "where"]
        when = [f for f in collection.filters if f[0] in ("or", "when")]
        [patch], [dates] = where, when
        windows = [f[1] for f in (dates[1] if dates[0] == "or" else [dates])]
        limits = [f[1:] for f in collection.filters if f[0] == "less"]
        with self.lock:
            self.searched[patch] += 1
        key = repr(collection.filters)
        if self.remembers and key in self._found:
            return self._found[key]
        found = (self.catalogue.granules(patch.epsg, patch.bounds, *dates) for dates in windows)
        images: list[Any] = []
        for granule in dict.fromkeys(chain(*found)):  # windows may overlap
            image = self._image(granule)
            if all(image.properties[name] < limit for name, limit in limits):
                images += [image, _in_next_zone(image)] if self.other_zones else [image]
        for function in collection.functions:
            images = [function(image) for image in images]
        if self.remembers:
            self._found[key] = images
        return images

    def _size(self, collection: Collection) -> int:
        """Count the images of a collection of which one is requested."""
        if collection.id not in (S2, CLOUD_SCORE):
            raise _not_found(collection)
        assert collection.limit == 1
        return 1

    def _image(self, granule: Granule) -> Image:
        bands = {name: self._band(granule, name) for name in BANDS_M}
        return Image(bands, self.catalogue.properties(granule), granule)

    def _link(
        self,
        input: Image,
        imageCollection: Collection,
        linkedBands: list[str],
        **_: Any,
    ) -> Image:
        assert imageCollection.id == CLOUD_SCORE
        assert input.granule is not None
        return replace(
            input, bands=input.bands | {name: self._score(input.granule) for name in linkedBands}
        )

    def _band(self, granule: Granule, name: str) -> Band:
        return Band(
            lambda x, y: self.catalogue.values(granule, name, x, y),
            lambda x, y: self.catalogue.has_data(granule, name, x, y),
        )

    def _score(self, granule: Granule) -> Band:
        """Return the cloud score of a scene, masked where there is none."""
        has_score = self.catalogue.has_score(granule)
        return Band(
            lambda x, y: np.where(self.catalogue.is_cloud(granule, x, y), CLOUDY, CLEAR),
            lambda x, y: self.catalogue.is_valid(granule, x, y) & has_score,
        )


def _not_found(collection: Collection) -> LookupError:
    return LookupError(
        f"ImageCollection.load: ImageCollection asset '{collection.id}' not found (does not exist "
        "or caller does not have access)."
    )


def _in_next_zone(image: Image) -> Image:
    name = image.properties["system:index"]
    head, _, tile = name.rpartition("_T")
    other = f"{head}_T{int(tile[:2]) % 60 + 1:02d}{tile[2:]}"
    return replace(image, properties=image.properties | {"system:index": other})


def _filter(collection: Collection, filter: Any) -> Collection:
    return replace(collection, filters=(*collection.filters, filter))


def _rectangle(coordinates: list[Any], crs: Reference, **_: Any) -> Rectangle:
    flat = np.array(coordinates, float).reshape(-1, 2)
    (left, bottom), (right, top) = flat.min(0), flat.max(0)
    return Rectangle(crs.epsg, (left, bottom, right, top))


def _point(coordinates: list[float], **_: Any) -> Rectangle:
    """Return a square of 2 m around a longitude and a latitude, in its zone."""
    lng, lat = coordinates
    epsg = int(utm_epsg(lat, lng))
    x, y = (round(float(value)) for value in to_utm(lat, lng, epsg))
    return Rectangle(epsg, (x - 1, y - 1, x + 1, y + 1))


def _date(value: Any) -> date:
    return date.fromisoformat(value)


def _mask(image: Image, **_: Any) -> Image:
    def of(band: Band) -> Band:
        return Band(lambda x, y: band.mask(x, y).astype(float), _everywhere)

    return replace(image, bands={name: of(band) for name, band in image.bands.items()})


def _unmask(input: Image, value: Image | float = 0, sameFootprint: bool = True) -> Image:
    def of(band: Band) -> Band:
        return Band(
            lambda x, y: np.where(band.mask(x, y), band.values(x, y), _number(value)), _everywhere
        )

    assert not sameFootprint
    return replace(input, bands={name: of(band) for name, band in input.bands.items()})


def _gte(image1: Image, image2: Image | float) -> Image:
    def of(band: Band) -> Band:
        return Band(lambda x, y: (band.values(x, y) >= _number(image2)).astype(float), band.mask)

    return replace(image1, bands={name: of(band) for name, band in image1.bands.items()})


def _number(value: Image | float) -> float:
    """Return the value of a constant image."""
    if not isinstance(value, Image):
        return float(value)
    [band] = value.bands.values()
    return float(band.values(np.zeros(1), np.zeros(1))[0])


def _constant(value: float) -> Band:
    return Band(lambda x, y: np.full_like(x, value, float), _everywhere)


def _everywhere(x: Array, y: Array) -> Array:
    return np.ones_like(x, bool)


def _reduce_region(
    image: Image,
    reducer: str,
    geometry: Rectangle,
    crs: Reference | str,
    crsTransform: list[float],
    **_: Any,
) -> dict[str, float | None]:
    assert reducer == "mean"
    size, _shear, left, _shear_y, _size, top = crsTransform
    west, south, east, north = geometry.bounds
    assert (west, north) == (left, top)
    assert (crs.epsg if isinstance(crs, Reference) else int(crs[5:])) == geometry.epsg
    width, height = round((east - west) / size), round((north - south) / size)
    x, y = pixel_centres(left, top, width, height, size)
    means = {}
    for name, band in image.bands.items():
        values, mask = band.values(x, y), band.mask(x, y)
        means[name] = float(values[mask].mean()) if mask.any() else None
    return means


def _set(feature: dict[str, Any], properties: dict[str, Any]) -> dict[str, Any]:
    return feature | {"properties": feature["properties"] | properties}

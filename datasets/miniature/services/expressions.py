"""Evaluates the expressions that the collector sends to Earth Engine, over the made-up archive.

Images are lazy: functions of UTM coordinates. What the collector does not use is not here; an
unknown function is an error that names it, as from the real service.
"""

import threading
from collections import Counter
from collections.abc import Callable
from datetime import date
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from datasets.bands import RESOLUTION_M
from datasets.collect.utm import to_utm, utm_epsg
from datasets.miniature.services.catalogue import Array, Catalogue, Granule, pixel_centres

S2 = "COPERNICUS/S2_SR_HARMONIZED"
CLOUD_SCORE = "GOOGLE/CLOUD_SCORE_PLUS/V1/S2_HARMONIZED"
CLEAR, CLOUDY = 0.9, 0.1  # cloud scores
Band = Callable[[Array, Array], tuple[Any, Any]]  # values and mask at easting and northing


class Image(NamedTuple):
    """An image of Earth Engine."""

    bands: dict[str, Band]  # in their order
    properties: dict[str, Any]  # as of the asset
    granule: Granule  # the scene that it comes from


class Collection(NamedTuple):
    """A collection of images that has not been evaluated."""

    id: str  # of the asset
    filters: tuple[Any, ...] = ()  # names and values of its conditions
    functions: tuple[Callable[[Any], Any], ...] = ()  # to apply to each image, in order


class Rectangle(NamedTuple):
    """A rectangle in a UTM zone."""

    epsg: int  # code of the zone
    bounds: tuple[float, float, float, float]  # left, bottom, right and top in metres


class Evaluator:
    """Evaluates expressions.

    Attributes:
        other_zones: Also list each scene once more under the next zone, as near a border.
        searched: How often scenes were looked for around each point.

    Args:
        catalogue: The archive.
        remembers: Look once for the scenes of a place in some windows, with what was measured.
    """

    def __init__(self, catalogue: Catalogue, *, remembers: bool) -> None:
        self.catalogue = catalogue
        self.other_zones = not remembers
        self.searched: Counter[Rectangle] = Counter()
        self._found: dict[str, list[Any]] | None = {} if remembers else None
        self._lock = threading.Lock()
        self._table = TABLE | {
            "Collection.toList": lambda collection, count, **_: self._elements(collection)[:count],
            "Collection.size": lambda collection: bool(_existing(collection, S2, CLOUD_SCORE)),
            "Image.linkCollection": self._link,
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
            if kind == "functionDefinitionValue":
                [argument], body = content["argumentNames"], values[content["body"]]
                return lambda given: value_of(body, names | {argument: given})
            name = content["functionName"]
            if name not in self._table:
                raise LookupError(f"Function '{name}' is not known.")
            given = {key: value_of(item, names) for key, item in content["arguments"].items()}
            return self._table[name](**given)

        return value_of(values[expression["result"]], {})

    def _elements(self, collection: Collection) -> list[Any]:
        """Return the images of a collection, each after its functions."""
        filters = dict(_existing(collection, S2).filters)
        patch, (name, limit) = filters["where"], filters["less"]
        with self._lock:
            self.searched[patch] += 1
        key = repr(collection.filters)
        if self._found is not None and key in self._found:
            return self._found[key]
        found = (
            self.catalogue.granules(patch.epsg, patch.bounds, first, end)
            for first, end in filters["when"]
        )
        images: list[Any] = []
        for granule in dict.fromkeys(chain(*found)):  # windows may overlap
            image = self._image(granule)
            if image.properties[name] < limit:
                images += [image, _in_next_zone(image)] if self.other_zones else [image]
        for function in collection.functions:
            images = [function(image) for image in images]
        if self._found is not None:
            self._found[key] = images
        return images

    def _image(self, granule: Granule) -> Image:
        def band(name: str) -> Band:
            return lambda x, y: (
                self.catalogue.values(granule, name, x, y),
                self.catalogue.has_data(granule, name, x, y),
            )

        bands = {name: band(name) for name in RESOLUTION_M}
        return Image(bands, self.catalogue.properties(granule), granule)

    def _link(
        self, input: Image, imageCollection: Collection, linkedBands: list[str], **_: Any
    ) -> Image:
        """Add the cloud score of a scene, masked where there is none."""
        _existing(imageCollection, CLOUD_SCORE)
        granule, has_score = input.granule, self.catalogue.has_score(input.granule)

        def score(x: Array, y: Array) -> tuple[Array, Array]:
            values = np.where(self.catalogue.is_cloud(granule, x, y), CLOUDY, CLEAR)
            return values, self.catalogue.is_valid(granule, x, y) & has_score

        return input._replace(bands=input.bands | dict.fromkeys(linkedBands, score))


def _existing(collection: Collection, *names: str) -> Collection:
    if collection.id in names:
        return collection
    raise LookupError(
        f"ImageCollection.load: ImageCollection asset '{collection.id}' not found (does not exist "
        "or caller does not have access)."
    )


def _in_next_zone(image: Image) -> Image:
    head, _, tile = image.properties["system:index"].rpartition("_T")
    other = f"{head}_T{int(tile[:2]) % 60 + 1:02d}{tile[2:]}"
    return image._replace(properties=image.properties | {"system:index": other})


def _rectangle(coordinates: list[float], crs: str, **_: Any) -> Rectangle:
    left, bottom, right, top = coordinates
    return Rectangle(_epsg(crs), (left, bottom, right, top))


def _point(coordinates: list[float], **_: Any) -> Rectangle:
    """Return a square of 2 m around a longitude and a latitude, in its zone."""
    lng, lat = coordinates
    epsg = int(utm_epsg(lat, lng))
    x, y = (round(float(value)) for value in to_utm(lat, lng, epsg))
    return Rectangle(epsg, (x - 1, y - 1, x + 1, y + 1))


def _epsg(crs: str, **_: Any) -> Any:
    return int(crs.rpartition(":")[2]) if isinstance(crs, str) else crs


def _each(image: Image, function: Callable[[Any, Any], tuple[Any, Any]]) -> Image:
    """Apply a function of values and mask to all bands."""

    def changed(band: Band) -> Band:
        return lambda x, y: function(*band(x, y))

    return image._replace(bands={name: changed(band) for name, band in image.bands.items()})


def _unmask(input: Image, value: float, sameFootprint: bool) -> Image:
    assert not sameFootprint
    return _each(input, lambda values, mask: (np.where(mask, values, value), True))


def _reduce_region(
    image: Image, geometry: Rectangle, crs: Any, crsTransform: list[float], **_: Any
) -> dict[str, float | None]:
    size, _shear, left, _shear_y, _size, top = crsTransform
    west, south, east, north = geometry.bounds
    assert (west, north, _epsg(crs)) == (left, top, geometry.epsg)
    x, y = pixel_centres(
        left, top, round((east - west) / size), round((north - south) / size), size
    )
    means = {}
    for name, band in image.bands.items():
        values, mask = np.broadcast_arrays(*band(x, y))
        means[name] = float(values[mask].mean()) if mask.any() else None
    return means


def _set(feature: dict[str, Any], properties: dict[str, Any]) -> dict[str, Any]:
    return feature | {"properties": feature["properties"] | properties}


# Signatures of the functions: those that the client's own list has (ee/tests/algorithms.json).
TABLE: dict[str, Callable[..., Any]] = {
    "ImageCollection.load": lambda id, **_: Collection(id),
    "Collection.filter": lambda collection, filter: collection._replace(
        filters=(*collection.filters, filter)
    ),
    "Collection.map": lambda collection, baseAlgorithm, **_: collection._replace(
        functions=(*collection.functions, baseAlgorithm)
    ),
    "Collection.limit": lambda collection, limit, **_: collection,
    "Filter.intersects": lambda leftField, rightValue, **_: ("where", rightValue["geometry"]),
    "Filter.or": lambda filters: ("when", [dates for _, dates in filters]),
    "Filter.dateRangeContains": lambda leftValue, rightField: ("when", leftValue),
    "Filter.lessThan": lambda leftField, rightValue: ("less", (leftField, rightValue)),
    "DateRange": lambda start, end: (date.fromisoformat(start), date.fromisoformat(end)),
    "Projection": _epsg,
    "Feature": lambda geometry=None, metadata=None, **_: {
        "type": "Feature",
        "geometry": geometry,
        "properties": dict(metadata or {}),
    },
    "GeometryConstructors.Rectangle": _rectangle,
    "GeometryConstructors.Point": _point,
    "Image.select": lambda input, bandSelectors, **_: input._replace(
        bands={name: input.bands[name] for name in bandSelectors}
    ),
    "Image.rename": lambda input, names: input._replace(
        bands=dict(zip(names, input.bands.values(), strict=True))
    ),
    "Image.addBands": lambda dstImg, srcImg, **_: dstImg._replace(
        bands=dstImg.bands | srcImg.bands
    ),
    "Image.mask": lambda image: _each(image, lambda values, mask: (1.0 * mask, True)),
    "Image.unmask": _unmask,
    "Image.gte": lambda image1, image2: _each(
        image1, lambda values, mask: (1.0 * (values >= image2), mask)
    ),
    "Image.constant": lambda value: value,
    "Image.reduceRegion": _reduce_region,
    "Reducer.mean": lambda: "mean",
    "Element.copyProperties": lambda destination, source, properties, **_: _set(
        destination, {p: source.properties[p] for p in properties if p in source.properties}
    ),
    "Element.set": lambda object, key, value: _set(object, {key: value}),
    "Element.get": lambda object, property: object.properties[property],
}

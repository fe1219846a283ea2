"""Land covers of the miniature Earth: ten painters, and the places that they compose.

Covers differ in geometry, not in colour: each borrows its materials from the same few surfaces and
draws its own tones, so that a single pixel does not identify the cover. Lengths are cells of 5 m.
"""

from collections.abc import Callable

import numpy as np

from datasets.miniature.canvas import (
    Array,
    Canvas,
    Rng,
    frame,
    grain,
    noise,
    patches,
    rough_noise,
    strips,
)
from datasets.miniature.surfaces import draw_climate


def _annual_crop(canvas: Canvas, where: Array, rng: Rng) -> None:
    """Large even fields, sown and cut at different times, with faint tramlines."""
    u, v = frame(rng, canvas.cells, bend=rng.uniform(0, 4))
    fields = strips(rng, u, v, rng.uniform(22, 60), rng.uniform(40, 120))
    crops = canvas.add(rng, *["crop"] * 6, "grass", "soil", spread=0.2, days=45)
    period = rng.uniform(4, 7)
    along = fields.pick(rng, np.array([True, True, False]))
    lines = np.sin(2 * np.pi / period * np.where(along, fields.u, fields.v))
    texture = 0.05 * lines + 0.06 * noise(rng, canvas.cells, 25)
    canvas.put(where, fields.pick(rng, crops), texture)
    track = canvas.add(rng, "grass", "soil", spread=0.25)[rng.integers(2)]
    canvas.put(where & (fields.edge < 0.8), track)


def _permanent_crop(canvas: Canvas, where: Array, rng: Rng) -> None:
    """Small plots of vines in rows or trees in a lattice, between light tracks."""
    u, v = frame(rng, canvas.cells, bend=rng.uniform(0, 6))
    plots = strips(rng, u, v, rng.uniform(20, 40), rng.uniform(25, 60))
    floors = canvas.add(rng, "soil", "dry grass", "soil", "grass", spread=0.25, days=15)
    plants = canvas.add(rng, "orchard", "shrub", "orchard", spread=0.2, days=15)
    canvas.put(where, plots.pick(rng, floors), 0.05 * grain(rng, canvas.cells))
    period = plots.pick(rng, rng.uniform(4.2, 6.5, 4))
    turned = plots.pick(rng, np.array([True, False]))
    across, along = np.where(turned, plots.u, plots.v), np.where(turned, plots.v, plots.u)
    row = np.sin(2 * np.pi * across / period)
    lattice = np.where(plots.pick(rng, np.array([True, False])), 1, np.sin(6.2832 * along / period))
    planted = (row > 0.0) & (lattice > -0.3) & (plots.edge > 1)
    canvas.put(where & planted, plots.pick(rng, plants), 0.08 * grain(rng, canvas.cells), 2.5)
    canvas.put(where & (plots.edge < 0.9), canvas.add(rng, "sand", "soil")[rng.integers(2)])


def _forest(canvas: Canvas, where: Array, rng: Rng) -> None:
    """Crowns in clumps of several kinds of trees, with a few clearings."""
    cells = canvas.cells
    trees = canvas.add(rng, "deciduous", "conifer", "deciduous", "conifer", spread=0.25, days=12)
    crowns = noise(rng, cells, rng.uniform(1.6, 2.6))
    stand = noise(rng, cells, rng.uniform(15, 45)) + 0.4 * crowns + rng.normal(0, 0.8)
    stands = np.digitize(stand, [-0.8, 0.0, 0.8])
    rough = rng.uniform(0.12, 0.25)
    height = 14 + 4 * crowns + 12 * noise(rng, cells, 40)
    canvas.put(where, trees[stands], rough * crowns, height)
    if rng.random() < 0.35:
        clearing = canvas.add(rng, "grass", "soil", spread=0.25)[rng.integers(2)]
        canvas.put(where & (noise(rng, cells, 14) > 1.7), clearing, 0, 0)


def _herbaceous(canvas: Canvas, where: Array, rng: Rng) -> None:
    """Rugged slopes of dry grass, bare soil and shrubs, furrowed by gullies."""
    cells = canvas.cells
    relief = rough_noise(rng, cells, rng.uniform(35, 70), octaves=5)
    dense = relief * rng.choice([-0.7, 0.7]) + rough_noise(rng, cells, 10, octaves=3)
    ground = canvas.add(rng, "soil", "dry grass", "grass", "shrub", spread=0.2, days=12)
    labels = ground[np.digitize(dense + rng.normal(0, 0.5), [-1.2, 0.3, 1.3])]
    gullies = np.abs(rough_noise(rng, cells, 30, octaves=3))
    texture = 0.10 * rough_noise(rng, cells, 6, octaves=3) - 0.15 * (gullies < 0.12)
    canvas.put(where, labels, texture, rng.uniform(15, 40) * relief)


def _pasture(canvas: Canvas, where: Array, rng: Rng) -> None:
    """Smooth meadows of irregular outline between dark hedges, with single trees."""
    cells = canvas.cells
    u, v = frame(rng, cells, bend=rng.uniform(1, 6))
    meadows = patches(rng, u, v, rng.uniform(26, 55))
    grass = canvas.add(rng, "grass", "grass", "grass", "dry grass", "crop", spread=0.15, days=25)
    canvas.put(where, meadows.pick(rng, grass), 0.05 * noise(rng, cells, 15))
    bush = canvas.add(rng, "conifer", "shrub", spread=0.2)  # seen in every season
    gaps = noise(rng, cells, 8) > rng.uniform(0.9, 1.7)
    hedge = (meadows.edge < rng.uniform(1.5, 2.4)) & ~gaps
    trees = noise(rng, cells, 2.5) > 2.6
    rough = 0.15 * grain(rng, cells)
    canvas.put(where & (hedge | trees), bush[rng.integers(2)], rough, 8)


def _residential(canvas: Canvas, where: Array, rng: Rng) -> None:
    """Small roofs and gardens in rows along a net of streets."""
    cells = canvas.cells
    u, v = frame(rng, cells, bend=rng.uniform(0, 10))
    blocks = strips(rng, u, v, rng.uniform(13, 22), rng.uniform(25, 60))
    yards = canvas.add(rng, "grass", "deciduous", "soil", "concrete", spread=0.2)
    greenness = rough_noise(rng, cells, 8, octaves=3) + rng.normal(0, 0.8)
    labels = yards[np.digitize(greenness, [-1.3, 0.0, 0.7])]
    canvas.put(where, labels, 0.1 * grain(rng, cells))
    pitch = rng.uniform(4.5, 6.5)
    column, row = np.floor(blocks.u / pitch), np.floor(blocks.v / pitch)
    plot = (blocks.ids * 67 + column.astype(np.intp) % 8 * 8 + row.astype(np.intp) % 8) % 4096
    share = rng.uniform(0.5, 0.75)
    inside = (blocks.u / pitch - column < share) & (blocks.v / pitch - row < share)
    built = inside & (blocks.edge > 1.6) & (rng.random(4096) < 0.88)[plot]
    roofs = canvas.add(rng, "tiles", "slate", "tiles", "concrete", spread=0.3)
    canvas.put(where & built, rng.choice(roofs, 4096)[plot], 0.08 * grain(rng, cells), 7)
    street = canvas.add(rng, "asphalt", "concrete", spread=0.2)[rng.integers(2)]
    canvas.put(where & (blocks.edge < 1.1), street)


def _industrial(canvas: Canvas, where: Array, rng: Rng) -> None:
    """Large flat halls on paved lots, with parking places and strips of green."""
    cells = canvas.cells
    u, v = frame(rng, cells)
    lots = strips(rng, u, v, rng.uniform(24, 42), rng.uniform(26, 55))
    ground = canvas.add(rng, "asphalt", "concrete", "soil", "grass", "asphalt", spread=0.2)
    canvas.put(where, lots.pick(rng, ground), 0.08 * grain(rng, cells))
    margin = lots.pick(rng, rng.uniform(2.5, 8, 6))
    notch = lots.pick(rng, rng.uniform(0, 18, 6))
    hall = (lots.edge > margin) & (lots.v > margin + notch) & (lots.pick(rng, np.arange(8)) > 0)
    roofs = canvas.add(rng, "metal", "slate", "concrete", "metal", "slate", "tiles", spread=0.3)
    ribs = 0.05 * np.sign(np.sin(2 * np.pi * lots.u / rng.uniform(5, 9)))
    canvas.put(where & hall, lots.pick(rng, roofs), ribs, 10)
    road = canvas.add(rng, "asphalt", spread=0.2)[0]
    canvas.put(where & (lots.edge < 1.3), road)


def _highway(canvas: Canvas, where: Array, rng: Rng) -> None:
    """Two carriageways and a median between verges, sometimes crossed by a smaller road."""
    cells = canvas.cells
    u, v = frame(rng, cells)
    bend = rng.uniform(-1, 1) * 0.2 / cells
    offset = rng.uniform(-0.2, 0.2) * cells
    lane = canvas.add(rng, "asphalt", "concrete", spread=0.2)[int(rng.random() < 0.3)]
    verge = canvas.add(rng, "sand", "dry grass", "soil", spread=0.2)
    if rng.random() < 0.5:
        crossing = np.abs(u + rng.uniform(-0.3, 0.3) * cells + 0.3 * v)
        canvas.put(where & (crossing < 3), verge[rng.integers(3)])
        canvas.put(where & (crossing < 1.6), lane)
    distance = np.abs(v - offset - bend * u**2 * 4)
    half = rng.uniform(4.5, 7.0)
    cars = 0.35 * (grain(rng, cells) > 2.2)
    canvas.put(where & (distance < half + rng.uniform(2.5, 5)), verge[rng.integers(3)])
    canvas.put(where & (distance < half), lane, cars)
    canvas.put(where & (distance < rng.uniform(0.9, 1.5)), verge[rng.integers(3)])


def _river(canvas: Canvas, where: Array, rng: Rng) -> None:
    """A meandering band of water with shoals that the season floods, and wooded banks."""
    cells = canvas.cells
    u, v = frame(rng, cells)
    length, swing = rng.uniform(90, 260), rng.uniform(4, 22)
    bow = swing * np.sin(2 * np.pi * u / length + rng.uniform(0, 6.3))
    half = rng.uniform(6, 15) + 1.2 * noise(rng, cells, 25)
    distance = np.abs(v - rng.uniform(-0.2, 0.2) * cells - bow - 2 * noise(rng, cells, 30))
    bank = canvas.add(rng, "deciduous", "grass", "sand", spread=0.2)[rng.integers(3)]
    wooded = noise(rng, cells, 10) > rng.uniform(-1, 1)
    canvas.put(where & wooded & (distance < half + 3), bank, 0.1 * grain(rng, cells), 4)
    for step, level in enumerate((0.8, 0.5, 0.2)):
        shoal = canvas.add(rng, "sand", "soil", floods_at=level)[step % 2]
        canvas.put(where & (distance < half + 0.6 * (2 - step)), shoal)
    water = canvas.add(rng, "water", spread=0.15)[0]
    canvas.put(where & (distance < half - 0.6), water, 0.02 * noise(rng, cells, 6))


def _sea_lake(canvas: Canvas, where: Array, rng: Rng) -> None:
    """Open water: plumes of turbidity, swell, and a flat shore where it meets land."""
    cells = canvas.cells
    waters = canvas.add(rng, "water", "water", "water", spread=0.12)
    plume = noise(rng, cells, rng.uniform(30, 90)) + 0.3 * noise(rng, cells, 10)
    u, _ = frame(rng, cells, bend=6)
    swell = rng.uniform(0, 0.06) * np.sin(2 * np.pi * u / rng.uniform(5, 14))
    texture = swell + rng.uniform(0, 0.05) * noise(rng, cells, 3) + 0.1 * plume
    canvas.put(where, waters[np.digitize(plume, [-0.7, 0.7])], texture)


# By EuroSAT's names. The last two are lines, drawn across open country.
COVERS: dict[str, Callable[[Canvas, Array, Rng], None]] = {
    "AnnualCrop": _annual_crop,
    "Forest": _forest,
    "HerbaceousVegetation": _herbaceous,
    "Industrial": _industrial,
    "Pasture": _pasture,
    "PermanentCrop": _permanent_crop,
    "Residential": _residential,
    "SeaLake": _sea_lake,
    "Highway": _highway,
    "River": _river,
}
COVER_NAMES = tuple(COVERS)
_AREAS, _LINES = COVER_NAMES[:-2], COVER_NAMES[-2:]
_OPEN = ("AnnualCrop", "Forest", "HerbaceousVegetation", "Pasture", "PermanentCrop")


def draw_place(rng: Rng, cover: str, *, size_px: int) -> Canvas:
    """Draw a place that one cover dominates, perhaps with two others at one side.

    Args:
        rng: Source of everything about the place.
        cover: Name in ``COVERS``.
        size_px: Side in pixels of 10 m; the canvas is filled up to whole 60 m pixels.
    """
    canvas = Canvas(12 * (-(-size_px // 6)))
    main = cover if cover not in _LINES else str(rng.choice(_OPEN))
    everywhere = np.ones((canvas.cells, canvas.cells), bool)
    paint(canvas, main, everywhere, rng)
    share = rng.uniform(0.72, 1.15)
    if share < 1:
        others = rng.choice([name for name in _AREAS if name != main], 2, replace=False)
        u, _ = frame(rng, canvas.cells)
        plan = u / 60 + rng.uniform(0.3, 1.5) * noise(rng, canvas.cells, 60)
        side = plan > np.quantile(plan, share)
        first = noise(rng, canvas.cells, 80) > -0.5
        paint(canvas, str(others[0]), side & first, rng)
        paint(canvas, str(others[1]), side & ~first, rng)
    if cover in _LINES:
        paint(canvas, cover, everywhere, rng)
    canvas.climate = draw_climate(rng)
    return canvas


def paint(canvas: Canvas, cover: str, where: Array, rng: Rng) -> None:
    """Paint a cover and mark its cells.

    Args:
        canvas: Painted in place.
        cover: Name in ``COVERS``.
        where: Cells to paint, bool, shape (cells, cells).
        rng: Source of the details.
    """
    COVERS[cover](canvas, where, rng)
    canvas.cover[where] = COVER_NAMES.index(cover)

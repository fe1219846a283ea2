"""Windows of rasters: their pixels, their place on Earth, and what is refused."""

import os
import resource
import shutil
import warnings
from pathlib import Path

import numpy as np
import pyproj
import pytest
import rasterio
from rasterio.control import GroundControlPoint
from rasterio.transform import from_origin

from datasets.geotiff.footprints import corners_of, pixel_m
from datasets.imagery.rasters import RasterFlags, RasterWindows
from datasets.imagery_dataset import open_imagery
from tests.references.raster_files import IN_DEGREES, UTM, coded, write_raster
from utils.errors import UserError
from utils.input_spec import SECO_SPEC, InputSpec, input_transform
from utils.patch_blocks import PatchBlock

LOCAL = 'LOCAL_CS["quarry",UNIT["metre",1]]'
COARSE = from_origin(2.0, 48.0, 0.0002, 0.0002)  # 14.9 x 22.2 m
FLAGS = RasterFlags(patch_size=32, stride=32, scale=None, bands=None, max_nodata=0.0)


def opened(path: Path, flags: RasterFlags = FLAGS, spec: InputSpec = SECO_SPEC) -> RasterWindows:
    return RasterWindows(path, flags, spec, lambda data: input_transform(spec, data, "auto"))


def blocks_of(windows: RasterWindows) -> list[PatchBlock]:
    return [windows.read(block) for block in range(len(windows))]


def pictures_of(windows: RasterWindows) -> np.ndarray:
    return np.concatenate([block.pictures for block in blocks_of(windows)])


def cells_of(windows: RasterWindows) -> list[tuple[int, int]]:
    return [tuple(cell) for block in blocks_of(windows) for cell in block.cells.tolist()]


@pytest.mark.parametrize(("size", "stride"), [(32, 32), (32, 20), (33, 50)])
def test_windows_are_the_pixels_at_their_cell_and_corners_are_those_of_proj(
    tmp_path: Path, size: int, stride: int
) -> None:
    pixels = coded(150, 210)
    path = write_raster(tmp_path / "a.tif", pixels)
    windows = opened(path, FLAGS._replace(patch_size=size, stride=stride))
    assert windows.grid.shape == ((150 - size) // stride + 1, (210 - size) // stride + 1)
    assert sorted(cells_of(windows)) == sorted(np.ndindex(windows.grid.shape))
    to_degrees = pyproj.Transformer.from_crs(UTM["crs"], "EPSG:4326", always_xy=True)
    for block in blocks_of(windows):
        for n, (row, column) in enumerate(block.cells):
            y, x = row * stride, column * stride
            stored = pixels[::-1, y : y + size, x : x + size]  # B4, B3, B2
            assert (block.pictures[n] == windows.transform.to_picture(stored)).all()
            left, top = 500_000 + 10 * x, 5_400_000 - 10 * y
            sides = np.array([(0, 0), (0, -1), (1, -1), (1, 0)]) * 10 * size
            expected = np.transpose(to_degrees.transform(*(sides + (left, top)).T))
            np.testing.assert_allclose(block.corners[n], expected, atol=1e-9)
            assert block.ids[n] == f"a.tif/{row}/{column}"
            assert (windows.picture(block.ids[n]) == block.pictures[n]).all()


def test_a_cell_of_the_grid_is_centred_in_its_patch(tmp_path: Path) -> None:
    windows = opened(write_raster(tmp_path / "a.tif", coded(128, 128)), FLAGS._replace(stride=16))
    transform = rasterio.Affine(*windows.grid.transform)
    # Patch (2, 3) has its centre at pixel (2 * 16 + 16, 3 * 16 + 16), and the cell at (2.5, 3.5).
    found = rasterio.transform.xy(transform, 2, 3)  # of the centre of row 2, column 3
    assert found == pytest.approx((500_000 + 640, 5_400_000 - 480))


def test_scale_below_one_averages_and_above_one_interpolates(tmp_path: Path) -> None:
    flat = np.repeat(np.repeat(coded(40, 40), 2, axis=1), 2, axis=2)  # 2 x 2 equal pixels
    path = write_raster(tmp_path / "a.tif", flat, transform=from_origin(0, 0, 5, 5))
    windows = opened(path, FLAGS._replace(scale=0.5))
    expected = windows.transform.to_picture(coded(40, 40)[::-1, :32, :32])
    (picture,) = pictures_of(windows)
    assert (picture == expected).all()
    assert len(pictures_of(opened(path, FLAGS._replace(scale=2.0)))) == 25


def test_windows_without_data_are_left_out(tmp_path: Path) -> None:
    pixels = coded(96, 96)
    pixels[:, :32, :40] = 0  # cell (0, 0), and a quarter of (0, 1)
    of_zero = write_raster(tmp_path / "zero.tif", pixels)
    tagged = write_raster(tmp_path / "tagged.tif", np.where(pixels, pixels, 7), nodata=7)
    every = set(np.ndindex(3, 3))
    for path in (of_zero, tagged):
        assert set(cells_of(opened(path))) == every - {(0, 0), (0, 1)}
        assert set(cells_of(opened(path, FLAGS._replace(max_nodata=0.25)))) == every - {(0, 0)}
    pixels[:] = 0
    empty = opened(write_raster(tmp_path / "empty.tif", pixels))
    assert pictures_of(empty).shape == (0, 3, 32, 32)


def write_vrt(path: Path, source: str, side: int, relative: int = 1) -> Path:
    """Write what gdalbuildvrt writes for one file of three bands."""
    bands = "".join(
        f'<VRTRasterBand dataType="UInt16" band="{band}"><Description>{name}</Description>'
        f'<SimpleSource><SourceFilename relativeToVRT="{relative}">{source}</SourceFilename>'
        f"<SourceBand>{band}</SourceBand></SimpleSource></VRTRasterBand>"
        for band, name in enumerate(("B2", "B3", "B4"), 1)
    )
    srs = f"<SRS>{UTM['crs']}</SRS><GeoTransform>500000, 10, 0, 5400000, 0, -10</GeoTransform>"
    path.write_text(
        f'<VRTDataset rasterXSize="{side}" rasterYSize="{side}">{srs}{bands}</VRTDataset>'
    )
    return path


def test_a_vrt_shows_the_windows_of_its_file(tmp_path: Path) -> None:
    write_raster(tmp_path / "a.tif", coded(96, 96))
    shown = opened(write_vrt(tmp_path / "a.vrt", "a.tif", 96))
    assert (pictures_of(shown) == pictures_of(opened(tmp_path / "a.tif"))).all()
    assert shown.fingerprint() != opened(tmp_path / "a.tif").fingerprint()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("/vsicurl/http://127.0.0.1:9/a.tif", "only GeoTIFFs on a disk are read"),
        ("http://127.0.0.1:9/a.tif", "only GeoTIFFs on a disk are read"),
        ("other.vrt", "only GeoTIFFs on a disk are read"),
        ("gone.tif", "shows gone.tif: No such file"),
    ],
)
def test_a_vrt_of_anything_but_geotiffs_on_a_disk_is_refused(
    tmp_path: Path, source: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        opened(write_vrt(tmp_path / "a.vrt", source, 96, relative=0))


def test_a_vrt_is_checked_as_gdal_reads_it_whatever_the_case_of_its_names(tmp_path: Path) -> None:
    path = write_vrt(tmp_path / "a.vrt", "/vsicurl/http://127.0.0.1:9/a.tif", 96)
    path.write_text(path.read_text().replace("SourceFilename", "sourcefilename"))
    with pytest.raises(UserError, match="only GeoTIFFs on a disk are read"):
        opened(path)


@pytest.mark.parametrize("content", [b"<VRTDataset/>", b"", None])
def test_a_vrt_of_something_that_is_no_tiff_is_refused(
    tmp_path: Path, content: bytes | None
) -> None:
    source = tmp_path / "b.tif"
    os.mkfifo(source) if content is None else source.write_bytes(content)
    with pytest.raises(UserError, match=r"b\.tif"):
        opened(write_vrt(tmp_path / "a.vrt", "b.tif", 96))


def test_a_small_file_of_a_huge_raster_is_refused_at_once(tmp_path: Path) -> None:
    write_raster(tmp_path / "a.tif", coded(32, 32))
    with pytest.raises(UserError, match="patches, more than 1,000,000,000: raise --stride"):
        opened(write_vrt(tmp_path / "a.vrt", "a.tif", 2**31 - 1))


def test_many_rasters_need_few_open_files(tmp_path: Path) -> None:
    for number in range(40):
        write_raster(tmp_path / f"{number:02}.tif", coded(32, 32))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(list(Path("/proc/self/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 20, limits[1]))
    try:
        many = open_imagery(tmp_path, SECO_SPEC, FLAGS)
        assert sum(len(many.read(block).ids) for block in range(len(many))) == 40
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_folder_of_rasters_is_read_one_after_the_other(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_raster(tmp_path / f"{name}.tif", coded(64, 96))
    both = open_imagery(tmp_path, SECO_SPEC, FLAGS)
    found = [both.read(block) for block in range(len(both))]
    ids = [name for block in found for name in block.ids]
    assert both.num_patches == len(ids) == 2 * 6
    assert (both.picture("b.tif/1/2") == opened(tmp_path / "b.tif").picture("b.tif/1/2")).all()


def test_8_bit_rasters_are_pictures_and_their_alpha_is_a_mask(tmp_path: Path) -> None:
    pixels = (coded(64, 64, 4) % 251 + 1).astype(np.uint8)
    pixels[3] = 255
    pixels[3, 32:, 32:] = 0
    colors = ("red", "green", "blue", "alpha")
    path = tmp_path / "a.tif"
    write_raster(path, pixels, bands=(), photometric="RGB", alpha="YES")
    with rasterio.open(path) as file:
        assert [each.name for each in file.colorinterp] == list(colors)
    windows = opened(path, spec=InputSpec.of_pictures())
    assert set(cells_of(windows)) == {(0, 0), (0, 1), (1, 0)}
    assert (pictures_of(windows)[0] == pixels[:3, :32, :32]).all()


def test_the_size_of_pixels_in_degrees_is_measured_where_they_are() -> None:
    geographic = rasterio.CRS.from_epsg(4326)
    geod = pyproj.Geod(ellps="WGS84")
    width = geod.line_length([2.0, 2.0001], [47.995, 47.995])
    height = geod.line_length([2.0, 2.0], [47.995, 47.9951])
    found = pixel_m(geographic, IN_DEGREES, 100)
    assert found == pytest.approx((width + height) / 2, rel=0.005)
    feet = rasterio.CRS.from_epsg(2263)  # New York, US survey feet
    assert pixel_m(feet, from_origin(0, 0, 100, 100), 10) == pytest.approx(30.48, rel=1e-4)


def test_corners_beyond_the_antimeridian_and_beyond_a_projection() -> None:
    geographic = rasterio.CRS.from_epsg(4326)
    box = np.array([[0, 0, 100, 100]])
    corners = corners_of(geographic, from_origin(179.99, 10, 0.001, 0.001), box)
    np.testing.assert_allclose(corners[0, :, 0], [179.99, 179.99, -179.91, -179.91])
    at_180 = corners_of(geographic, from_origin(179.9, 10, 0.001, 0.001), box)
    np.testing.assert_allclose(at_180[0, :, 0], [179.9, 179.9, 180, 180])
    assert np.isnan(corners_of(None, None, box)).all()
    mercator = rasterio.CRS.from_epsg(32631)
    assert np.isnan(corners_of(mercator, from_origin(1e9, 1e9, 10, 10), box)).all()


@pytest.mark.parametrize(
    ("profile", "flags", "message"),
    [
        ({"transform": from_origin(0, 0, 0.5, 0.5)}, {}, "pixels of 0.5 m.*--scale 0.05"),
        ({"transform": COARSE, "crs": "EPSG:4326"}, {}, "--scale 1.85"),
        ({"transform": from_origin(0, 0, 2, 2), "crs": LOCAL}, {}, "pixels of 2 m.*--scale 0.2"),
        ({"bands": ()}, {}, "no names in the file: name each band once with --raster_bands"),
        ({"bands": ("B2", "B2", "B4")}, {}, "name each band once"),
        ({"bands": ("B2", "B3", "B8")}, {}, "has no B4"),
        ({}, {"bands": ["B2", "B3"]}, "has 3 bands, and B2 B3"),
        ({}, {"patch_size": 97}, "96 x 96 px of the encoder, fewer than one patch of 97"),
    ],
)
def test_a_raster_that_does_not_fit_is_refused_with_the_remedy(
    tmp_path: Path, profile: dict, flags: dict, message: str
) -> None:
    path = write_raster(tmp_path / "a.tif", coded(96, 96), **profile)
    with pytest.raises(UserError, match=message):
        opened(path, FLAGS._replace(**flags))


@pytest.mark.parametrize("dtype", ["float32", "int16", "uint32"])
def test_other_types_than_pictures_and_reflectance_are_refused(tmp_path: Path, dtype: str) -> None:
    path = write_raster(tmp_path / "a.tif", coded(64, 64).astype(dtype))
    with pytest.raises(UserError, match=f"has bands of {dtype}, but pictures are uint8"):
        opened(path)


def test_reflectance_in_another_unit_is_refused(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", coded(200, 200) % 250 + 1)
    with pytest.raises(UserError, match="digital numbers"):
        opened(path)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    whole = write_raster(tmp_path / "a.tif", coded(200, 200), compress="deflate")
    cut = tmp_path / "cut.tif"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(UserError, match=r"cut.tif (cannot be read|is not a readable raster)"):
        blocks_of(opened(cut))
    (tmp_path / "text.tif").write_text("no raster")
    (tmp_path / "text.vrt").write_text("<VRTDataset")
    for name in ("text.tif", "text.vrt"):
        with pytest.raises(UserError, match="not a readable"):
            opened(tmp_path / name)


@pytest.mark.parametrize(
    ("profile", "is_size_known"),
    [
        ({"crs": None}, False),
        ({"transform": rasterio.Affine.identity()}, False),
        ({"transform": rasterio.Affine(10, 0, np.nan, 0, -10, np.nan)}, False),
        ({"gcps": [GroundControlPoint(0, 0, 2, 48), GroundControlPoint(9, 9, 3, 47)]}, False),
        ({"crs": LOCAL}, True),
    ],
)
def test_patches_whose_place_cannot_be_computed_are_written_without_one_and_with_a_warning(
    tmp_path: Path, profile: dict, is_size_known: bool
) -> None:
    if "gcps" in profile:
        profile |= {"transform": rasterio.Affine.identity()}
    path = write_raster(tmp_path / "a.tif", coded(64, 64), **profile)
    with pytest.warns(UserWarning, match="the place of .*a.tif on Earth is unknown") as said:
        windows = opened(path)
    assert not windows.is_placed
    assert np.isnan(blocks_of(windows)[0].corners).all()
    assert ("are taken for those of 10 m" in str(said[0].message)) != is_size_known
    with rasterio.open(path) as file:
        assert bool(windows.grid.crs) == (is_size_known and file.crs is not None)
    assert np.isfinite(windows.grid.transform).all()
    many = write_raster(tmp_path / "b.tif", coded(64, 64))
    assert opened(many).is_placed
    with pytest.warns(UserWarning, match="is unknown"):
        assert open_imagery(tmp_path, SECO_SPEC, FLAGS).is_placed  # one of both is


def test_files_next_to_a_raster_change_nothing(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", coded(64, 64))
    before = pictures_of(opened(path))
    other = write_raster(tmp_path / "other.tif", coded(64, 64) + 1)
    shutil.copy(other, f"{path}.ovr")
    shutil.copy(other, f"{path}.msk")
    Path(f"{path}.aux.xml").write_text(
        '<PAMDataset><PAMRasterBand band="1"><NoDataValue>300</NoDataValue></PAMRasterBand>'
        "</PAMDataset>"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (pictures_of(opened(path)) == before).all()


@pytest.mark.parametrize(
    ("name", "tag", "day"),
    [
        ("S2A_MSIL2A_20190405T103021_N0211_R108_T31UDQ.tif", None, "2019-04-05"),
        ("a.tif", "2020:06:07 10:11:12", "2020-06-07"),
        ("a.tif", None, ""),
    ],
)
def test_the_day_is_in_the_tags_or_in_the_name(
    tmp_path: Path, name: str, tag: str | None, day: str
) -> None:
    path = write_raster(tmp_path / name, coded(64, 64))
    if tag:
        with rasterio.open(path, "r+") as file:
            file.update_tags(TIFFTAG_DATETIME=tag)
    assert set(blocks_of(opened(path))[0].days) == {day}

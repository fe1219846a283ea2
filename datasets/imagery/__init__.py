"""Patches of any imagery, for an encoder.

- ``raster_files.py``: What a GeoTIFF or VRT holds: its files, bands, unit and day.
- ``rasters.py``: Windows of a GeoTIFF or VRT of any size.
- ``many_rasters.py``: Several rasters, one after the other.
- ``samples.py``: Separate patches of one size, such as those of a data set.
"""

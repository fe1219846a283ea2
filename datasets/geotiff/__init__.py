"""Read and write GeoTIFFs, for all data sets.

- ``reader.py``: The only reader: limits and checks, then ``plain.py``, or GDAL.
- ``plain.py``: Decode usual small files without the time that GDAL takes to open them.
- ``writer.py``: The only writer.
- ``footprints.py``: Longitude and latitude of the corners of patches.
"""

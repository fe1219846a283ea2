"""Procedural places, drawn and written in the layouts of the four data sets.

- ``canvas.py``: Grid of 5 m cells with noise, parcels and curves.
- ``surfaces.py``: Reflectance of each surface per band, season and weather.
- ``covers.py``: Ten land covers, and places composed of them.
- ``render.py``: Reflectance of a place on a date, as the sensor measures it.
- ``files.py``: Georeference and GeoTIFFs; places of SeCo and images of EuroSAT.
- ``bigearthnet.py``: Patches, labels and lists of BigEarthNet.
- ``oscd.py``: Cities of OSCD on two dates, and their change maps.
- ``rasters.py``: A large raster of a city on two dates, and what was built.
- ``services/``: A loopback Earth Engine over a made-up archive, for tests and benchmarks.
"""

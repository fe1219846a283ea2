"""OSCD: images and change maps of 24 cities.

- ``cities.py``: Names of the training and test cities.
- ``files.py``: Find and read the bands and change maps of a city.
- ``maps.py``: Write the predicted change maps of all cities of a run.
- ``change_maps.py``: Write change maps as pictures, GeoTIFFs and arrays.
"""

"""OSCD: images and change maps of 24 cities.

- ``facts.py``: Names of the training and test cities, bands and quantiles.
- ``files.py``: Find and read the bands and change maps of cities.
- ``splits.py``: Lists of training and test cities, and the ones that validate.
- ``tiles.py``: Cities as samples, whole or in tiles.
- ``maps.py``: Write the predicted change maps of cities.
"""

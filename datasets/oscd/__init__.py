"""OSCD: images and change maps of 24 cities.

- ``facts.py``: Names of the training and test cities, bands and quantiles.
- ``files.py``: Find cities, split them, and read their bands and change maps.
- ``tiles.py``: Cities as samples, whole or in tiles.
- ``windows.py``: Windows of both dates of the cities, for an encoder.
- ``maps.py``: Write the predicted change maps of cities.
- ``verify.py``: Find problems of cities and change maps.
"""

"""SeCo data sets and users' own pictures: from files to training samples.

- ``data_modes.py``: The data modes, which views each of them contrasts, and the data flags.
- ``bad_patches.py``: The error of an unusable patch, skipping it, and the list of skipped ones.
- ``folder.py``: Places, dates and band files of a folder; each file is a uint8 GeoTIFF.
- ``zipped.py``: The same in a zip.
- ``patches.py``: SeCo patches of chosen bands as arrays, from a folder or a zip.
- ``pictures.py``: RGB pictures from any folder or zip, read like patches.
- ``samples.py``: The data set of a training: draws the dates of a place for each sample.
- ``verify.py``: Find problems of a folder or zip.
"""

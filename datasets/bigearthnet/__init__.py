"""BigEarthNet v1 and v2: labels, lists, and patches from folders or an LMDB.

- ``bands.py``: Sizes, file names and normalisation of the bands.
- ``labels.py``: The 43 and 19 classes, and how the first are grouped into the second.
- ``lists.py``: Read and check the lists of splits, snow and clouds.
- ``folder.py``: Read patches from a folder per patch with a GeoTIFF per band.
- ``lmdb_store.py``: Read patches from an LMDB of safetensors, and encode one.
- ``writer.py``: Write the LMDB in parallel; an interrupted run can be repeated.
- ``index.py``: Patches, splits and labels of a data set, from any of its layouts.
"""

"""BigEarthNet v1 and v2: labels, lists, and patches from folders or an LMDB.

- ``facts.py``: Bands, normalisation and the 43 and 19 classes.
- ``lists.py``: Read and check the lists of splits, snow and clouds.
- ``folder.py``: Read patches from a folder per patch with a GeoTIFF per band.
- ``lmdb_pages.py``: Check the pages of an LMDB before its library follows them.
- ``lmdb_store.py``: Read patches from an LMDB of safetensors, and encode one.
- ``index.py``: Patches, splits and labels of a data set, from any of its layouts.
- ``pictures.py``: Pictures of patches, and the labelled patches of each run.
- ``command.py``: The command line of datasets/bigearthnet_dataset.py.
- ``writer.py``: Write the LMDB in parallel; the same command resumes an interrupted run.
- ``verify.py``: Find problems of patches, labels and lists.
"""

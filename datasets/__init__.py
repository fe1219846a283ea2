"""Data sets: download or collect them, read them, and turn them into batches.

Bands and file formats that all data sets share:

- ``bands.py``: Sentinel-2 bands with order, resolution and unit; which file holds which band.
- ``archive.py``: Files of folders, and of zips with millions of members, for any process.
- ``geotiff/``: The only reader and the only writer of GeoTIFFs.
- ``figures.py``: Stretched bands as images, and figures of them.
- ``loaders.py``: Loaders of the plain data modules.

Obtain data (command-line scripts):

- ``download.py``: Download, verify and unpack public data sets.
- ``seco_downloader.py``: Collect a SeCo data set from Earth Engine or a STAC catalogue.
- ``collect/``: Plan, fetch and verify a collection.
- ``verify.py``: Check every file of a data set before it is used (script).
- ``checking/``: What the checks of all data sets share.
- ``mini_earth.py``: Write procedural data in the layouts of the four data sets, and rasters.
- ``miniature/``: Draw procedural places and write their files.

Pre-training:

- ``seco_utils.py``: Measure the quantiles of all bands of a SeCo data set (script).
- ``seco/``: Read SeCo patches and pictures, and group them into samples.
- ``seco_packed.py``: Pack a data set into a few large files (script).
- ``store/``: Write and read packed stores and LitData chunks.
- ``seco_dataset.py``: The original's three data sets of SeCo patches, one sample at a time.
- ``seco_datamodule.py``: Batches of augmented views for the data modes of SeCo.
- ``online_data.py``: Labelled pictures for the probes during a pre-training.

Embedding:

- ``imagery_dataset.py``: Any imagery as patches: rasters, data sets, folders of pictures.
- ``imagery/``: Windows of rasters of any size, and separate patches.

Evaluation:

- ``eurosat/``: Find and decode the files of EuroSAT, and split them.
- ``eurosat_dataset.py``: EuroSAT, RGB or 13 bands, as pictures with classes.
- ``eurosat_datamodule.py``: Batches of EuroSAT for a plain Lightning trainer.
- ``bigearthnet/``: Read and write BigEarthNet's files, labels and lists.
- ``bigearthnet_dataset.py``: BigEarthNet as pictures with labels; as a script, writes its LMDB.
- ``bigearthnet_datamodule.py``: Batches of BigEarthNet for a plain Lightning trainer.
- ``oscd/``: Read OSCD's images and change maps, and write predicted maps.
- ``oscd_dataset.py``: OSCD as pairs of tiles with change maps.
- ``oscd_datamodule.py``: Batches of OSCD for a plain Lightning trainer.
"""

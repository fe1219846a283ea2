"""What several test modules use: made-up files, runs, and slow re-statements.

Processes:

- ``waiting.py``: Wait for a condition.
- ``script.py``: Run a script in the tests' own process, or in processes of its own.
- ``launcher_variables.py``: Environment variables that launchers set.

Files:

- ``source_code.py``: The Python files of the project, parsed.
- ``tar_files.py``: Tar archives in memory.
- ``hostile_pickles.py``: Pickles that run code when opened.
- ``legacy_checkpoint.py``: Checkpoints as Lightning 1.1 wrote them.
- ``seco_files.py``: Write and read a GeoTIFF, zip a SeCo folder or pack it.
- ``bigearthnet_files.py``: Small data sets in BigEarthNet's layouts.
- ``run_folders.py``: Folders as main_pretrain.py leaves them, without a training.
- ``raster_files.py``: GeoTIFFs whose pixels say where they are.
- ``place_files.py``: Files of a collected place.
- ``numbered_patches.py``: Patches that hold their own number, and their samples.

Runs:

- ``fetch_runs.py``: Run the engine of a collection.
- ``downloader_runs.py``: Run datasets/seco_downloader.py.
- ``stream_process.py``: One of several processes that share a stream.
- ``recorded_batches.py``: Batches of a SeCo data module, recorded from a training.
- ``probe_pictures.py``: Pictures of a split that an encoder is evaluated on.
- ``pretraining.py``: Run main_pretrain.py, and compare checkpoints.
- ``plain_training.py``: A model and a trainer as a user writes them.

Slow re-statements:

- ``pil_reference.py``: The transforms of SeCo and MoCo on one Pillow picture.
- ``bigearthnet_pictures.py``: BigEarthNet's pictures as the original makes them.
"""

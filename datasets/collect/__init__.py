"""Collect Sentinel-2 patches from Earth Engine or a STAC catalogue.

Settings:

- ``args.py``: Command line of the downloader.
- ``settings.py``: The settings that determine the content of a collection.
- ``check.py``: Validate the settings before anything is written.

Plan:

- ``csv_columns.py``: Read columns of numbers from a CSV file.
- ``cities.py``: Cities around which places are drawn; as a script, writes their table.
- ``land_mask.py``: Land or water at a coordinate, to 30 arc seconds.
- ``utm.py``: UTM coordinates of many points, in NumPy.
- ``sampling.py``: Draw places and time windows as a function of the seed.
- ``scenes.py``: Places, windows, scenes, and the interface of a source of scenes.
- ``places.py``: Places of a plan as CSV, and places from a user's file.
- ``plan.py``: Make, write and read the plan of a collection.
- ``estimate.py``: Estimate requests, time and disk space of a plan.
- ``map.py``: Plot the places of a plan.
- ``indices.py``: Read the list of places that a run is to collect.

Sources of scenes:

- ``rate_limit.py``: Limit, repeat and count the requests to a service.
- ``ee_credentials.py``: Find credentials and project for Earth Engine without prompting.
- ``ee_http.py``: HTTP transport for Earth Engine's client, with a limit on the time of an answer.
- ``ee_errors.py``: Classify Earth Engine's errors.
- ``ee_scenes.py``: Parse scenes and pixels from Earth Engine's answers.
- ``earth_engine.py``: Search and read scenes with Earth Engine's client.
- ``stac_http.py``: HTTP requests to a STAC catalogue and ranges of its files.
- ``stac_items.py``: Parse the items of a catalogue, and remove the offset of the pixel values.
- ``stac.py``: Search and read scenes from a STAC catalogue.

Fetch:

- ``signals.py``: Signals that ask a process to end.
- ``choice.py``: Select the scenes of a place to try, and their order.
- ``blocks.py``: State of a block of places and its spares.
- ``preview.py``: Write a picture of the dates of a place.
- ``writer.py``: Write the GeoTIFFs and metadata of a place.
- ``packed.py``: Write the places of complete blocks into a packed store.
- ``journal.py``: Record which places are done or failed, per shard.
- ``place.py``: Search, read and write the scenes of one place; runs in threads.
- ``progress.py``: Counts of a run, and how it ended.
- ``fetch.py``: Schedule searches and places over threads until the collection is complete.
- ``probe.py``: Time a few search and read requests without writing files.
- ``status.py``: Report the progress of a run and of all shards.
- ``verify.py``: Check all files of a collection.
"""

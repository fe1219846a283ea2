"""Collect Sentinel-2 patches from Earth Engine or a STAC catalogue.

Settings:

- ``args.py``: Command line of the downloader.
- ``settings.py``: The flags, each declared once: settings of a collection, and of a run.

Plan:

- ``utm.py``: UTM zones of Sentinel-2's grid, and projection of points to zones of their own.
- ``sampling.py``: Draw places as a function of the seed.
- ``cities.py``: Cities around which places are drawn.
- ``places.py``: Places of a plan as CSV, and places from a user's file.
- ``plan.py``: Make, write and read the plan of a collection: its places and time windows.
- ``blocks.py``: Blocks of places and spares: which places a run collects.
- ``estimate.py``: Estimate requests, time and disk space of a plan, and plot its places.

Sources of scenes:

- ``scenes.py``: Places, windows, scenes, the interface of a source, and which scenes are tried.
- ``rate_limit.py``: Limit, repeat and count requests; halve them after 429, obey Retry-After.
- ``web.py``: HTTP requests with a deadline for the whole answer.
- ``ee_credentials.py``: Find credentials and project for Earth Engine without prompting.
- ``ee_answers.py``: Parse scenes, pixels and errors from Earth Engine's answers.
- ``earth_engine.py``: Search and read scenes with Earth Engine's client.
- ``stac_items.py``: Parse the items of a catalogue, and remove the offset of the pixel values.
- ``stac_files.py``: Read windows of remote GeoTIFFs by ranges.
- ``stac.py``: Search and read scenes from a STAC catalogue.

Run:

- ``run.py``: One run over the places of a shard.
- ``fetch.py``: Schedule searches and places over threads until the collection is complete.
- ``collector.py``: Search, read and write the scenes of one place; runs in threads.
- ``writer.py``: Write the GeoTIFFs, metadata and picture of a place.
- ``packed.py``: Write the places of complete blocks into a packed store.
- ``journal.py``: Record which places are done or failed, per shard.
- ``report.py``: Report the progress of a run and of all shards, and how a run ended.
- ``probe.py``: Time a few search and read requests without writing files.
- ``verify.py``: Check all files of a collection.
"""

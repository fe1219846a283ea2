"""Servers on loopback, and the made-up data that they serve.

- ``file_server.py``: Serve one file, with the faults that a test requests.
- ``earth_engine_catalogue.py``: A made-up Sentinel-2 archive as a function of seed, place and date.
- ``fake_source.py``: A source of scenes that reads the archive without a network.
- ``earth_engine_discovery.py``: The description of Earth Engine's interface.
- ``earth_engine_expressions.py``: Evaluate the collector's Earth Engine expressions.
- ``earth_engine_faults.py``: Faults of Earth Engine, as a server produces them.
- ``earth_engine_server.py``: An Earth Engine for the real client.
- ``stac_items.py``: Dates and edited copies of STAC items.
- ``stac_server.py``: A STAC catalogue with small COGs of the archive.
"""

"""A loopback Earth Engine over a made-up archive, for tests and benchmarks without a network.

Tests and ``benchmarks/download.py`` start it, so that it is part of the miniature Earth: benchmarks
do not import tests.

- ``loopback.py``: Server and request handler that the services of tests share.
- ``faults.py``: Failures of requests, as a server produces them.
- ``catalogue.py``: A made-up Sentinel-2 archive as a function of place and date.
- ``expressions.py``: Evaluate the collector's Earth Engine expressions over the archive.
- ``earth_engine.py``: An Earth Engine for the real client.
- ``__main__.py``: The same as a process of its own.
"""

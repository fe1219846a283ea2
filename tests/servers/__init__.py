"""Servers on loopback, and the made-up data that they serve.

Earth Engine's is in ``datasets/miniature/services``, for benchmarks start it too.

- ``file_server.py``: Serve one file, with the faults that a test requests.
- ``fake_source.py``: A source of scenes that reads the made-up archive without a network.
- ``stac_server.py``: A STAC catalogue with small COGs of the archive.
"""

"""EuroSAT: its files in a folder or zip, and its splits.

- ``files.py``: Find, label and decode the pictures.
- ``splits.py``: The public lists, or a seeded draw; command line of datasets/eurosat_dataset.py.
- ``verify.py``: Find problems of pictures, classes and lists.
"""

"""Check data sets: what ``datasets/verify.py`` and the ``verify.py`` of each wing share.

- ``problems.py``: Kinds of problems, and their count.
- ``checks.py``: Checks of one file or patch.
- ``outlines.py``: Where files are on the ground, and which are elsewhere.
- ``whole_sets.py``: Check all of a data set, and find duplicates and leaks between its splits.
- ``checksums.py``: Write and compare lists of the sha256 of every file.
"""

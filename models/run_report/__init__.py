"""A run as one HTML file that opens from a disk, without a network.

- ``page.py``: The page: sections, tables, figures and thumbnails as HTML.
- ``run_files.py``: Read the folder of a run.
- ``curves.py``: Curves of pre-trainings, alone or on top of each other.
- ``queue.py``: The queue of a pre-training: what chance is, and whether it holds own keys.
- ``facts.py``: State, flags, versions, machine and data as tables.
- ``baseline.py``: Find or run the evaluation of a random encoder that belongs to an evaluation.
- ``evaluations.py``: Scores of evaluations, next to those of a random encoder.
- ``spaces.py``: What each embedding space calls similar, and a map of the embedding.
- ``interactive.py``: Scatter plots whose points show a thumbnail.
- ``writing.py``: Put the sections together, and write the file.
"""

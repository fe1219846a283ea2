"""Packed stores and LitData chunks: copies of a data set that are fast to read.

Packed store:

- ``hint.py``: The message that suggests a packed store.
- ``manifest.py``: Content and layout of a packed store, as JSON.
- ``journal.py``: Chunks that are already written, for an interrupted packing to resume from.
- ``writer.py``: Write a packed store in parallel, and verify one.
- ``reader.py``: Read patches of a packed store through memory maps.
- ``loader.py``: Batches from a packed store without worker processes.

LitData chunks:

- ``litdata_places.py``: Encode a place with all its dates as one item of a chunk.
- ``litdata_manifest.py``: Read and check our manifest and LitData's index of the chunks.
- ``litdata.py``: Write the chunks, and read their places.
- ``litdata_loader.py``: Batches from streamed chunks; needs the optional package litdata.

Either of them, or the original files:

- ``open.py``: Detect what ``--data_dir`` is, and open it.
"""

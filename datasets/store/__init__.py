"""Packed stores and LitData chunks: copies of a data set that are fast to read.

- ``open.py``: Detect what ``--data_dir`` is, and open it.
- ``manifest.py``: Content and layout of a packed store, as JSON.
- ``rows.py``: Create, write, hash and verify the files of a packed store.
- ``writer.py``: Pack a SeCo data set or pictures in parallel; resumes after a kill.
- ``reader.py``: Read patches of a packed store through memory maps.
- ``memory.py``: Files in memory, in one copy for all training processes of a machine.
- ``loader.py``: Batches from a packed store without worker processes.
- ``litdata.py``: Read and check a set of LitData chunks, in a folder or in object storage.
- ``litdata_writer.py``: Write a set of chunks; needs the optional package litdata.
- ``litdata_loader.py``: Read places from streamed chunks, chunk by chunk; needs litdata, too.
- ``verify.py``: Find problems of stores and chunks.
"""

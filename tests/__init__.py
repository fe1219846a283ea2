"""Tests; a package, so that no installed package takes its generic name.

- ``conftest.py``: Seeds, and one small copy of each data set for the whole run.
- ``references/``: Slow re-statements, made-up files and runs that several test modules use.
- ``servers/``: Servers on loopback for downloads and STAC, and a source of scenes.
- ``test_architecture.py``: Import rules, unique names, and these maps.
- ``test_docstrings.py``: Arguments and fields are described.
- ``test_differences.py``: Every row of docs/differences.md is shown by a test.
- ``test_private_names.py``: Private names of libraries, which a release may rename.
- ``test_supply_chain.py``: No known vulnerability is allowed, and no connection opened unasked.
- ``utils/``: Tests of ``utils``.
- ``datasets/``: Tests of ``datasets``, one folder per data set or wing.
- ``models/``: Tests of ``models``.
- ``scripts/``: Tests of the scripts, the benchmarks and the documents.
"""

# make setup | demo | table | bench | test | test-all | lint
VENV ?= .venv
PYTHON := $(VENV)/bin/python

.PHONY: setup demo table bench test test-all lint format

setup: $(VENV)/.installed

# uv is only the faster installer; it lives in the environment that it fills.
$(VENV)/.installed: requirements.txt requirements-dev.txt
	python3 -c 'import sys; sys.version_info < (3, 11) and sys.exit("Python 3.11 or newer is needed")'
	python3 -m venv $(VENV)
	$(PYTHON) -m pip install --quiet --disable-pip-version-check uv
	$(PYTHON) -m uv pip install --quiet --python $(PYTHON) -r requirements.txt -r requirements-dev.txt
	touch $@

demo: setup
	$(PYTHON) -m benchmarks.demo

table: setup
	$(PYTHON) -m benchmarks.table

bench: setup
	$(PYTHON) -m benchmarks.throughput --quick

test: setup
	$(PYTHON) -m pytest -n 2 --dist worksteal

test-all: setup
	$(PYTHON) -m pytest -m "slow or not slow"

lint: setup
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

format: setup
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

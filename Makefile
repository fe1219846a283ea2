# make setup | demo | table | bench | test | test-all | test-floor | lint | format
VENV ?= .venv
PYTHON3 ?= python3
RESOLUTION ?= highest
PYTHON := $(VENV)/bin/python

.PHONY: setup demo table bench test test-all test-floor lint format

setup: $(VENV)/.installed

# uv is only the faster installer; it lives in the environment that it fills.
$(VENV)/.installed: requirements.txt requirements-dev.txt
	$(PYTHON3) -c 'import sys; sys.version_info < (3, 11) and sys.exit("Python 3.11 or newer is needed")'
	$(PYTHON3) -m venv $(VENV)
	$(PYTHON) -m pip install --quiet --disable-pip-version-check uv
	$(PYTHON) -m uv pip install --quiet --python $(PYTHON) --resolution $(RESOLUTION) \
		-r requirements.txt -r requirements-dev.txt
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

# The lowest versions that the requirements allow; `make test VENV=.venv-3.14 PYTHON3=python3.14`
# is the same for another Python.
test-floor:
	$(MAKE) test VENV=.venv-floor RESOLUTION=lowest-direct

lint: setup
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

format: setup
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

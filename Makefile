# make help lists the targets
VENV ?= .venv
PYTHON3 ?= python3
RESOLUTION ?= highest
PYTHON := $(VENV)/bin/python

.PHONY: help setup demo table bench test test-all test-floor audit docs lint format

help: ## list these targets
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "  make %-10s %s\n", $$1, $$2}'

setup: $(VENV)/.installed ## install all requirements into .venv

# uv is only the faster installer; it lives in the environment that it fills. Where Python may not
# write bytecode (PYTHONDONTWRITEBYTECODE), importing Lightning took 15 s each time, and 8 s with it.
$(VENV)/.installed: requirements.txt requirements-dev.txt
	$(PYTHON3) -c 'import sys; sys.version_info < (3, 11) and sys.exit("Python 3.11 or newer is needed")'
	$(PYTHON3) -m venv $(VENV)
	$(PYTHON) -m pip install --quiet --disable-pip-version-check uv
	$(PYTHON) -m uv pip install --quiet --python $(PYTHON) --resolution $(RESOLUTION) \
		--compile-bytecode -r requirements.txt -r requirements-dev.txt
	touch $@

demo: setup ## the whole method on a miniature Earth, in minutes, without data or GPU
	$(PYTHON) -m benchmarks.demo

table: setup ## all three evaluations by both protocols on the miniature Earth
	$(PYTHON) -m benchmarks.table

bench: setup ## how fast reading, augmentation and training are here
	$(PYTHON) -m benchmarks.rivals --quick
	$(PYTHON) -m benchmarks.throughput --quick

# The processes that tests start need not compile the project again.
test: export PYTHONDONTWRITEBYTECODE =
test: setup ## the fast tests
	$(PYTHON) -m pytest -n 2 --dist worksteal

test-all: setup ## all tests, also those that take minutes each
	$(PYTHON) -m pytest -m "slow or not slow"

# `make test VENV=.venv-3.14 PYTHON3=python3.14` does the same for another Python.
test-floor: ## the fast tests with the lowest versions that the requirements allow
	$(MAKE) test VENV=.venv-floor RESOLUTION=lowest-direct

audit: setup ## known vulnerabilities of the installed packages; skipped without a network
	$(PYTHON) .ci/audit.py

docs: setup ## the documentation as a site, in site/
	NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build

lint: setup ## ruff and mypy
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

format: setup ## let ruff fix and format the code
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

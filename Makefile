# Needs only Python >= 3.11, pip and make. `make demo` runs the main job, `make test` the tests; both build .venv first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

# Tests are run by one process a core, each with one thread: tiny models gain nothing from more.
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

.PHONY: demo test test-slow gpu lint format docs package clean help

help:  ## what the targets do
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "casam-cache needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.runtime: $(VENV)/.python pyproject.toml constraints.txt
	$(PIP) install -q -c constraints.txt -e '.[lite-medsam]'
	@touch $@

$(VENV)/.dev: $(VENV)/.python pyproject.toml constraints.txt
	$(PIP) install -q -c constraints.txt -e '.[dev,docs]'
	@touch $@ $(VENV)/.runtime

demo: $(VENV)/.runtime  ## the main job on what the package ships: draw phantoms, encode, fit, table and pictures
	$(BIN)/casam demo --out casam_demo

test: $(VENV)/.dev  ## the test suite, about four minutes on two cores
	$(PYTEST) -m "not slow"

test-slow: $(VENV)/.dev  ## the slower tests: ViT-B parity, many kills, the demo from a wheel
	$(PYTEST) -m slow

gpu:  ## every figure that needs a GPU, 25 minutes; resumable (docs/gpu.md); PYTHON=... has torch with CUDA, PACK=DIR is a pack
	$(PYTHON) benchmarks/gpu_day.py run $(PACK)

lint: $(VENV)/.dev  ## ruff, mypy and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYTHONPATH=cli $(BIN)/lint-imports

format: $(VENV)/.dev  ## rewrite the code in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.dev  ## the documentation site, build/site; every warning is an error, nothing is fetched
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

package: $(VENV)/.dev  ## wheel and source distribution in dist/, checked as an index would
	rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist .
	$(BIN)/python -m twine check --strict dist/*

clean:  ## remove the environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .hypothesis .import_linter_cache build dist

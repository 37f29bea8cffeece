# The chores of biomedray; each is complete by itself on a machine with Python >= 3.11 and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
UV := $(BIN)/uv

# Ray starts many Python processes; without cached bytecode each would compile torch again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-heavy lint types format bench clean

help: ## list the chores
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(READY) ## make the environment in .venv and nothing else

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "biomedray needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(UV) pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable . --group dev
	$(BIN)/python -c 'import faiss, open_clip, ray.data, ray.serve, ray.train.torch, transformers'
	@touch $@

demo: $(READY) ## the whole road on a generated corpus, in minutes: ingest, train, evaluate, search, serve
	$(BIN)/biomedray demo --out out/demo

test: $(READY) ## the tests; some 10 minutes on 2 cores
	$(BIN)/python -m pytest -m "not heavy"

test-heavy: $(READY) ## those that take a minute or more each: kills, the served replica, the whole road, a job
	$(BIN)/python -m pytest -m heavy

lint: $(READY) ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY) ## mypy, strict
	$(BIN)/mypy

format: $(READY) ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY) ## the benchmarks; results and machine are written to benchmarks/results
	for script in benchmarks/[a-z]*.py; do $(BIN)/python $$script || exit 1; done

clean: ## remove the environment, caches and demo output
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis out build dist *.egg-info

# Both of the first two do all their own set-up: they need Python 3.11 or later and a network to install from.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test check bench clean

demo: $(VENV)/installed  ## the whole loop on a sample dataset, offline once installed
	$(BIN)/swinclf demo

test: $(VENV)/installed check  ## lint, types, tests
	$(BIN)/python -m pytest -n 2

check: $(VENV)/installed  ## lint and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/installed  ## this package's networks beside timm's, four minutes
	$(BIN)/python benchmarks/networks.py --seconds 240

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

clean:  ## everything that was made here
	rm -rf $(VENV) swinclf-demo runs build dist .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

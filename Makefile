# Both of the first two do all their own set-up: they need Python 3.11 or later and a network to install from.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

INSTALLED := $(VENV)/installed-with-$(notdir $(PYTHON))
LOWEST := .venv-lowest

.PHONY: demo test test-lowest test-ray test-mobile check docs bench clean

demo: $(INSTALLED)  ## the whole loop on a sample dataset, offline once installed
	$(BIN)/swinclf demo

test: $(INSTALLED) check  ## lint, types, tests
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-lowest: $(LOWEST)/installed  ## tests with the lowest versions that pyproject.toml allows
	$(LOWEST)/bin/python -m pytest -n 2

test-ray: $(INSTALLED)  ## the program of docs/distributed.md on a local Ray
	$(BIN)/python -m pip install --quiet --upgrade --target build/ray 'ray[data]'
	PYTHONPATH=$(CURDIR)/build/ray $(BIN)/python -m pytest -W default tests/ray_recipe.py

test-mobile: $(INSTALLED)  ## exports to LiteRT and Core ML; their converters may need an older torch
	$(PYTHON) -m venv --clear build/mobile
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > build/mobile/main.pth
	mv build/mobile/main.pth $$(build/mobile/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
	build/mobile/bin/python -m pip install --quiet '.[litert,coreml]'
	build/mobile/bin/python -m pytest -W default tests/mobile_formats.py

check: $(INSTALLED) docs  ## lint, types and the website
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(INSTALLED)  ## the website of docs/ in build/site; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict --config-file .mkdocs.yml || { rm -rf build/site; false; }

bench: $(INSTALLED)  ## every claim of speed, small: ten minutes; each alone: benchmarks/NAME.py
	$(BIN)/python benchmarks/startup.py --rounds 3
	$(BIN)/python benchmarks/frozen.py --count 100 --rounds 1
	$(BIN)/python benchmarks/finetune.py --count 80 --rounds 1
	$(BIN)/python benchmarks/predict.py --count 200 --large 40
	$(BIN)/python benchmarks/scale.py --files 100000 --classes 1000 --few 500 --many 5000
	$(BIN)/python benchmarks/networks.py --dtypes bf16 fp32 --seconds 120
	$(BIN)/python benchmarks/textbook.py --batch 64 --rounds 3

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

$(LOWEST)/installed: pyproject.toml tests/lowest_versions.py
	$(PYTHON) -m venv --clear $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --upgrade pip
	$(LOWEST)/bin/python tests/lowest_versions.py > $(LOWEST)/constraints.txt
	$(LOWEST)/bin/python -m pip install --quiet --constraint $(LOWEST)/constraints.txt --editable '.[dev]'
	touch $@

clean:  ## everything that was made here
	rm -rf $(VENV) $(LOWEST) swinclf-demo runs build dist .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

# Set-up, demo, tests. On Windows, where make is rare, README.md spells the same commands out.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup demo test lint types zip bench clean

setup: $(READY)

$(READY): constraints.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt setuptools
	$(BIN)/python -m pip install --disable-pip-version-check --no-build-isolation -c constraints.txt -e ".[dev]"
	@touch $(READY)

# make demo PANORAMA=path/to/panorama.exr takes a panorama of yours.
demo: $(READY)
	$(BIN)/python tests/demo.py $(if $(PANORAMA),--panorama "$(PANORAMA)")

test: $(READY)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m pyright
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

zip: $(READY)
	$(BIN)/python build_addon.py

bench: $(READY)
	$(BIN)/python bench/streams.py

clean:
	rm -rf build dist demo

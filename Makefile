# Set-up, demo, tests. README.md and CONTRIBUTING.md list the commands for Windows, without make.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# One process per core, each with one thread of torch.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile
# What is imported is compiled once, also where the environment says otherwise: installing doesn't compile all packages.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: setup demo check test lint types types-fast types-all fast whole coverage test-blender test-diffusers zip bench clean

setup: $(READY)

$(READY): constraints.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt setuptools
	$(BIN)/python -m pip install --no-compile --disable-pip-version-check --no-build-isolation -c constraints.txt \
		-e ".[dev]"
	mkdir -p $(VENV)/typing && ln -sfn ../.. $(VENV)/typing/panoform
	@touch $(READY)

# make demo PANORAMA=path/to/panorama.exr uses your own panorama.
demo: $(READY)
	$(BIN)/python tests/demo.py $(if $(PANORAMA),--panorama "$(PANORAMA)")

# For every change: two minutes on two cores.
check: lint
	$(MAKE) --no-print-directory -j2 types-fast fast

# Before a merge: all checks and tests, 16 minutes on two cores.
test: lint
	$(MAKE) --no-print-directory -j2 whole types

lint: $(READY)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .

# Without what imports torch and diffusers, which takes most of pyright's time.
types-fast: $(READY)
	$(BIN)/python -m pyright shared blender_addon backend/server backend/jobs backend/io

# What ships and the benchmarks, and of the tests what pytest doesn't run itself, for the newest Python that Blender ships:
# names that it no longer has are errors here. Names that 3.11 doesn't have yet fail in the tests, in lines that they run.
types: $(READY)
	$(BIN)/python -m pyright --pythonversion 3.14 shared backend blender_addon bench build_addon.py tests/demo.py \
		$(wildcard tests/blender_addon/real_*.py tests/blender_addon/*/real_*.py)

# Before a release: also the tests, for 3.11.
types-all: types
	$(BIN)/python -m pyright

fast: $(READY)
	$(PYTEST) -q -m "not slow and not real_blender"

whole: $(READY)
	$(PYTEST)

# All tests with the Blender application, in all its versions that are installed.
test-blender: $(READY)
	$(PYTEST) -m real_blender --every-blender tests/blender_addon

coverage: $(READY)
	$(PYTEST) --cov

# make test-diffusers VERSION=0.41.0 runs the tests of pipelines and models with another version of diffusers, without
# treating warnings as errors. Record the result beside the version range in pyproject.toml.
test-diffusers: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade \
		--target .cache/diffusers-$(VERSION) diffusers==$(VERSION)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade --target .cache/httpx httpx
	PYTHONPATH=$(CURDIR)/.cache/diffusers-$(VERSION):$(CURDIR)/.cache/httpx OMP_NUM_THREADS=1 \
		$(BIN)/python -m pytest -q -W default tests/backend/pipelines tests/backend/models

zip: $(READY)
	$(BIN)/python build_addon.py

bench: $(READY)
	$(BIN)/python bench/streams.py

clean:
	rm -rf build dist demo

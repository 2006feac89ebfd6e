# Set-up, demo, tests. On Windows, where make is rare, README.md spells the same commands out.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup demo test test-diffusers lint types zip bench clean

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

# make test-diffusers VERSION=0.41.0 runs the tests of pipelines and models with another version of diffusers. Its
# warnings are no failures there. Record what passes beside the range in pyproject.toml.
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

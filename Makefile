# make install, demo, test, bench, lint, docs, dist, sanitize: each sets up what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
BUILT := $(VENV)/built

.PHONY: install demo test test-installed bench lint docs dist sanitize clean

install: $(BUILT)

$(READY): requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements.txt
	touch $@

$(BUILT): $(READY) setup.py pyproject.toml $(wildcard csrc/*)
	MILKERNELS_REQUIRE_CPP=1 $(BIN)/python -m pip install --disable-pip-version-check \
		--no-build-isolation --no-deps --editable .
	touch $@

demo: install
	$(BIN)/python -m models.demo --out runs/demo

# One thread for each of the two workers: they are the parallel part.
test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

# The milkernels that PYTHON has installed, from outside of these sources, with what needs these alone.
test-installed:
	folder=$$(mktemp -d) && cp tests/*.* $$folder && cd $$folder && $(PYTHON) -m pytest -q \
		-k "not triton" $$(grep -LE "benchmarks|(from|import) models|parents|source_tree" test_*.py)

bench: install
	$(BIN)/python -m benchmarks.run --quick

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror csrc/*
	$(BIN)/mypy

docs: install
	$(BIN)/python docs/build.py build/docs

dist: install
	MILKERNELS_REQUIRE_CPP=1 $(BIN)/python -m build

# Half an hour on two cores.
sanitize: install
	$(BIN)/python -m stress.sanitize address
	$(BIN)/python -m stress.sanitize thread

clean:
	rm -rf $(VENV) build dist *.egg-info milkernels/_C.*.so

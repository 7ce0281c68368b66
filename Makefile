# `make demo` and `make test` set everything up by themselves, in .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

UNIT := --ignore tests/cluster --ignore tests/benchmarks
TWO_CLUSTERS := --numprocesses 2 --dist loadfile --no-loadscope-reorder

# Tests start hundreds of processes. Each would compile the package's modules again if it may not keep what it compiled.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test lint unit ray soak bench clean

demo: $(READY)
	$(BIN)/rsf demo

# What CI runs: the linters and every test. Tests on Ray wait for processes most of the time, and so the others run
# beside them; the benchmarks of one process, in their short form, come after, because they want the machine for
# themselves.
test: $(READY)
	$(MAKE) --jobs --output-sync=line lint unit ray
	$(BIN)/pytest tests/benchmarks

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Without a cluster.
unit: $(READY)
	$(BIN)/pytest $(UNIT) --numprocesses 2

# On Ray: each of the two processes has a cluster of its own and takes file after file.
ray: $(READY)
	$(BIN)/pytest tests/cluster $(TWO_CLUSTERS)

# The same tests with larger numbers, and those that take too long for every change.
soak: $(READY)
	$(BIN)/pytest $(UNIT) --soak --numprocesses 2
	$(BIN)/pytest tests/cluster --soak
	$(BIN)/pytest tests/benchmarks --soak

# Every ratio of tests/benchmarks, its long form, into benchmarks.json. It wants the machine for itself.
bench: $(READY)
	$(BIN)/pip install --quiet -e ".[bench]"
	$(BIN)/pytest tests/benchmarks --bench benchmarks.json

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -e ".[dev,examples]"
	touch $@

clean:
	rm -rf $(VENV) runs .pytest_cache .mypy_cache .ruff_cache

# `make demo` and `make test` set everything up by themselves, in .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test lint unit soak bench clean

demo: $(READY)
	$(BIN)/rsf demo

# What CI runs: the linters and every test.
test: lint unit
	$(BIN)/pytest -m "ray and not bench"
	$(BIN)/pytest -m bench

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Without Ray; about a minute on two cores.
unit: $(READY)
	$(BIN)/pytest -m "not ray and not bench" --numprocesses 2

# The same tests with larger numbers, and those that take too long for every change.
soak: $(READY)
	$(BIN)/pytest -m "not ray and not bench" --soak --numprocesses 2
	$(BIN)/pytest -m "ray and not bench" --soak

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

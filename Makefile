# `make demo` and `make test` set everything up by themselves, in .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test lint unit soak clean

demo: $(READY)
	$(BIN)/rsf demo

# What CI runs: the linters and every test.
test: lint unit
	$(BIN)/pytest -m ray

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Without Ray; about a minute on two cores.
unit: $(READY)
	$(BIN)/pytest -m "not ray" --numprocesses 2

# The same tests with larger numbers, and those that take too long for every change.
soak: $(READY)
	$(BIN)/pytest -m "not ray" --soak --numprocesses 2
	$(BIN)/pytest -m ray --soak

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -e ".[dev,examples]"
	touch $@

clean:
	rm -rf $(VENV) runs .pytest_cache .mypy_cache .ruff_cache

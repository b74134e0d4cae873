# Wardround. `make` alone lists what there is.
.DEFAULT_GOAL := help
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
OUT ?= out/demo

.PHONY: help setup demo demo-deployment test slow bench lint types clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: $(VENV)/.done  ## virtual environment with the pinned versions

$(VENV)/.done: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,flower-simulation]'
	@touch $@

demo: setup  ## four hospitals train together on this machine; ends with a report to open
	@rm -rf $(OUT)
	$(BIN)/wardround sim run --patients 240 --rounds 8 --out $(OUT)

demo-deployment: setup  ## a coordinator and three hospitals as processes, over TLS; one is killed on the way
	$(BIN)/python -m sim.deployment --out out/deployment

test: setup  ## the fast suite
	$(BIN)/python -m pytest -m "not slow" -n auto --dist worksteal

slow: setup  ## everything, minutes long
	$(BIN)/python -m pytest

bench: setup  ## figures beside peers and limits
	$(BIN)/wardround sim bench federation
	$(BIN)/wardround sim bench secagg
	$(BIN)/wardround sim bench deid

lint: setup  ## style, and that every file is formatted
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup  ## mypy --strict
	$(BIN)/mypy federation client server sim

clean:  ## what the other targets made
	rm -rf $(VENV) out build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

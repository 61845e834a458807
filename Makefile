# Everything a newcomer needs: `make demo` and `make test` set up .venv themselves.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo test fast lint types format clean

help: ## list the targets
	@awk -F':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## make .venv with everything in it (Python 3.11 or newer)

# torch goes first and under constraints: a CPU build that pip can find is taken, and stays.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	@echo "Setting up .venv: two or three minutes, mostly torch and the runtimes ..."
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(READY) ## measure this CPU, slim a supernet to a budget, train, export, verify, report
	$(BIN)/efficientformer demo --out runs/demo

test: lint types ## all tests but those that need an accelerator
	$(BIN)/python -m pytest -m 'not gpu' --ignore tests/contract --numprocesses 2 --dist loadfile --no-loadscope-reorder
	$(BIN)/python -m pytest -m 'not gpu' tests/contract --numprocesses 2 --dist loadgroup

fast: $(READY) ## the tests of minutes, not tens of minutes
	$(BIN)/python -m pytest -m 'not gpu and not slow and not real_data' --ignore tests/contract

lint: $(READY) ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY) ## the type checker
	$(BIN)/ty check

format: $(READY) ## put the code into the house's form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove what can be made again
	rm -rf .venv runs .pytest_cache .ruff_cache .hypothesis

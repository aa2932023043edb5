# `make story` trains a storyteller; `make test` proves everything; `make` alone lists the rest.
# Needs Python 3.11 or newer, make and a package registry, nothing else.

PYTHON ?= python3
VENV := .venv
PEERS := .venv-peers
BIN := $(VENV)/bin
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check
PINS := pyproject.toml constraints.txt

.DEFAULT_GOAL := help
.PHONY: help story test test-faults check format faults bench bench-peers pins clean

help: ## list what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

story: $(VENV)/.core ## train a small storyteller, about two minutes (MINUTES=5 for longer)
	$(BIN)/fabella quickstart $(if $(MINUTES),--minutes $(MINUTES))

test: $(VENV)/.dev ## run the whole test suite (ARGS="-k text -x" to choose)
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal $(ARGS)

test-faults: $(VENV)/.dev ## the long part of the fault matrix: kills, full disks, leaks
	$(BIN)/python -m pytest -m faults $(ARGS)

check: $(VENV)/.dev ## lint, format, types, import directions, spelling: what CI runs besides the tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports
	$(BIN)/codespell

format: $(VENV)/.dev ## put every file in the house's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

faults: $(VENV)/.dev ## inject every fault of the matrix and write docs/faults.md
	$(BIN)/python benchmarks/faults.py

bench: $(VENV)/.dev ## measure Fabella alone; results in benchmarks/results
	$(BIN)/fabella bench --alone --output benchmarks/results/training_speed_alone.json

bench-peers: $(PEERS)/.peers ## measure Fabella beside its peers, in their own environment (LLAMA2C=folder: llama2.c, too)
	$(PEERS)/bin/fabella bench --compiled --output benchmarks/results/training_speed.json
	$(PEERS)/bin/fabella bench --decode --output benchmarks/results/decoding_speed.json \
		$(if $(LLAMA2C),--llama2c $(LLAMA2C))

pins: $(VENV)/.dev ## list what is installed, in the form of constraints.txt
	$(BIN)/python -m pip list --format freeze --exclude-editable --disable-pip-version-check

clean: ## remove both environments; runs and prepared data stay
	rm -rf $(VENV) $(PEERS)

# The environments. A stamp is renewed when a pin changes, so that a second run installs nothing.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Fabella needs Python 3.11 or newer, and $(PYTHON) is older. Try: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.core: $(PINS) | $(VENV)/bin/python
	$(BIN)/python $(PIP_INSTALL) -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: $(PINS) | $(VENV)/bin/python
	$(BIN)/python $(PIP_INSTALL) -c constraints.txt -e '.[dev]'
	@touch $(VENV)/.core $@

$(PEERS)/.peers: $(PINS) constraints-peers.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python $(PIP_INSTALL) -c constraints-peers.txt -e . transformers tiktoken minGRU-pytorch \
		llama-cpp-python gguf lightning 'jsonargparse[signatures]'
	@# litgpt asks for an older huggingface-hub than Fabella has, but its model needs none.
	$(PEERS)/bin/python $(PIP_INSTALL) -c constraints-peers.txt --no-deps litgpt
	@touch $@

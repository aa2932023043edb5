# `make story` trains a storyteller; `make test` runs the test suite; `make` alone lists the rest.
# Needs Python 3.11 or newer, make and a package registry.

PYTHON ?= python3
VENV := .venv
PEERS := .venv-peers
CLIENTS := .venv-clients
LOCK := .venv-lock
BIN := $(VENV)/bin
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check
PINS := pyproject.toml constraints.txt
# Two more than the cores: many tests wait for a process, a timeout or a disk.
WORKERS ?= $(shell $(PYTHON) -c 'import os; print(2 + (os.cpu_count() or 1))')
# Bytecode of the package and of the tests, written once and not by each process that starts.
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help story test test-fast test-light test-faults test-clients test-install check format docs faults text-zoo bench bench-peers gpu-check fingerprints pins lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

story: $(VENV)/.core ## train a small storyteller in about two minutes (MINUTES=5 for longer)
	$(BIN)/fabella quickstart $(if $(MINUTES),--minutes $(MINUTES))

test: $(VENV)/.dev ## run the test suite (ARGS="-k text -x" to select)
	$(PYTEST) $(ARGS)

test-fast: $(VENV)/.test ## run the quick tests of the packages that you changed (PACKAGES="text data" to choose)
	$(PYTEST) -m "not slow" $$($(BIN)/python tests/changed.py $(PACKAGES)) $(ARGS)

test-light: $(VENV)/.test ## run what does not need JAX, transformers or Node.js, with a small installation
	$(PYTEST) -m "not slow" $(ARGS)

test-faults: $(VENV)/.dev ## run the long fault tests: kills, full disks, leaks
	$(BIN)/python -m pytest -m faults $(ARGS)

check: $(VENV)/.dev ## lint, format, types, import directions, spelling: what CI runs in addition to the tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports
	$(BIN)/codespell

format: $(VENV)/.test ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

faults: $(VENV)/.dev ## inject every fault of the matrix and write docs/faults.md
	$(BIN)/python benchmarks/faults.py

text-zoo: $(VENV)/.test ## read every kind of file of the text zoo and write docs/text-zoo.md
	$(BIN)/python -m benchmarks.text_zoo

test-clients: $(CLIENTS)/.clients ## talk to a server with the official clients; writes docs/clients.md
	$(CLIENTS)/bin/python -m benchmarks.clients.check

test-install: $(VENV)/.dev ## install the wheel with each extra into clean environments, measure and use it
	$(BIN)/python -m benchmarks.installation

docs: $(VENV)/.dev ## build the documentation site in build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

fingerprints: $(VENV)/.dev ## compare results with those of an earlier commit (BASELINE=1c109f2)
	$(BIN)/python benchmarks/fingerprints.py $(if $(BASELINE),--baseline $(BASELINE))

bench: $(VENV)/.dev ## measure Fabella; results in benchmarks/results
	$(BIN)/fabella bench --output benchmarks/results/training_speed_alone.json

bench-peers: $(PEERS)/.peers ## measure Fabella and its peers in an environment of their own (LLAMA2C=DIR adds llama2.c)
	$(PEERS)/bin/python -m benchmarks.peers.training --compile --bf16
	$(PEERS)/bin/python -m benchmarks.peers.decoding $(if $(LLAMA2C),--llama2c $(LLAMA2C))

gpu-check: $(VENV)/.test ## examine and measure Fabella on an NVIDIA GPU (ARGS="--only syncs,kill" to select)
	$(BIN)/python -m benchmarks.gpu_check --output benchmarks/results/gpu_check.json $(ARGS)

pins: $(VENV)/.dev ## list the installed packages in the form of constraints.txt
	$(BIN)/python -m pip list --format freeze --exclude-editable --disable-pip-version-check

lock: $(LOCK)/bin/uv ## write requirements.lock: every package with all extras, with the hashes of its files
	$(LOCK)/bin/uv pip compile pyproject.toml --quiet --all-extras --universal --python-version 3.11.5 \
		--constraints constraints.txt --generate-hashes --no-annotate --no-header --output-file requirements.lock

clean: ## remove the environments; runs and datasets stay
	rm -rf $(VENV) $(PEERS) $(CLIENTS) $(LOCK)

# The environments. A stamp is renewed when a pin changes, so that a second run installs nothing.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Fabella needs Python 3.11 or newer; $(PYTHON) is older. Try: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.core: $(PINS) | $(VENV)/bin/python
	$(BIN)/python $(PIP_INSTALL) -c constraints.txt -e .
	@touch $@

$(VENV)/.test: $(PINS) | $(VENV)/bin/python
	$(BIN)/python $(PIP_INSTALL) -c constraints.txt -e '.[test]'
	@touch $(VENV)/.core $@

$(VENV)/.dev: $(PINS) | $(VENV)/bin/python
	$(BIN)/python $(PIP_INSTALL) -c constraints.txt -e '.[dev]'
	@touch $(VENV)/.core $(VENV)/.test $@

$(PEERS)/.peers: $(PINS) constraints-peers.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python $(PIP_INSTALL) -c constraints-peers.txt -e . transformers tiktoken minGRU-pytorch \
		llama-cpp-python gguf lightning 'jsonargparse[signatures]'
	@# litgpt requires an older huggingface-hub than Fabella, but its model does not need one.
	$(PEERS)/bin/python $(PIP_INSTALL) -c constraints-peers.txt --no-deps litgpt
	@touch $@

$(CLIENTS)/.clients: $(PINS) constraints-clients.txt
	$(PYTHON) -m venv $(CLIENTS)
	$(CLIENTS)/bin/python $(PIP_INSTALL) -c constraints-clients.txt -e '.[serve]' 'lm-eval[api]' langchain-openai litellm llm openai \
		pytest hypothesis
	npm install --silent --no-save --prefix $(CLIENTS)/node "openai@$$(sed -n 's/^# npm: openai@//p' constraints-clients.txt)"
	@touch $@

$(LOCK)/bin/uv: constraints.txt
	$(PYTHON) -m venv $(LOCK)
	$(LOCK)/bin/python $(PIP_INSTALL) -c constraints.txt uv
	@touch $@

# The same few commands for a person and for CI. `make` alone lists them.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
ROOMS  := configs models stream train tools

.PHONY: help demo test lint types docs bench benchmark-transport clean

help:  ## This list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 21

demo: $(VENV)/.installed  ## Everything once, on a clip rendered here: video in, identity events, a page to look at
	$(BIN)/facestream models pull open
	$(BIN)/facestream demo

test: lint types $(VENV)/.installed-dev  ## ruff, mypy --strict and the tests
	$(BIN)/facestream models pull open
	$(BIN)/python -m pytest

lint: $(VENV)/.installed-dev  ## ruff, rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# mypy resolves `facestream.…` only in a folder of that name, whatever this checkout is called.
types: $(VENV)/.installed-dev  ## mypy --strict on the rooms
	@root=$$(mktemp -d) && trap 'rm -rf "$$root"' EXIT && ln -s "$(CURDIR)" "$$root/facestream" && cd "$$root" && \
	"$(abspath $(BIN))/mypy" --config-file facestream/pyproject.toml --cache-dir "$(CURDIR)/.mypy_cache" \
	  facestream/__init__.py $(addprefix facestream/,$(ROOMS))

docs: $(VENV)/.installed  ## Write the generated parts of docs/
	$(BIN)/python -m facestream.tools.docs

bench: $(VENV)/.installed  ## Where the time goes, on the demo clip
	$(BIN)/facestream bench

benchmark-transport: $(VENV)/.installed  ## What events and frames cost above bare ZeroMQ
	$(BIN)/facestream bench transport

clean:  ## Remove the environment and everything generated
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info demo-output

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "facestream needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 …" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/.installed

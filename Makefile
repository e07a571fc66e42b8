# The same few commands for a person and for CI. `make` alone lists them.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
SIM    ?= simulated
ROOMS  := configs models stream train tools

.PHONY: help demo test lint types docs bench benchmark-transport benchmark-accuracy benchmark-models benchmark-search benchmark-heads train-heads train-fusers simulate-compare clean

help:  ## This list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 21

demo: $(VENV)/.installed  ## Everything once, on a clip rendered here: video in, identity events, a page to look at
	$(BIN)/facestream models pull open
	$(BIN)/facestream demo

test: lint types $(VENV)/.installed-dev  ## ruff, mypy --strict and the tests, a process per core
	$(BIN)/facestream models pull open
	$(BIN)/python -m pytest -n auto --dist loadfile

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

benchmark-accuracy: $(VENV)/.installed-dev  ## Recognition on simulated video, into docs/benchmarks/accuracy.md; about half an hour
	$(BIN)/facestream bench accuracy --folder $(SIM)/accuracy

benchmark-models: $(VENV)/.installed-dev  ## What the papers' networks cost, into docs/benchmarks/models.md; a quarter of an hour
	$(BIN)/facestream bench models --write docs/benchmarks/models.md

benchmark-search: $(VENV)/.installed-dev  ## IDA against plain cosine search, into docs/benchmarks/search.md; ten minutes, 6 GB of memory
	$(BIN)/facestream bench search --write docs/benchmarks/search.md

# Needs $$FACESTREAM_ASSETS with the faces of the split, and the files of omz.
train-heads: $(VENV)/.installed-dev  ## The heads that the packs open and omz carry, into their cards; an hour or two on one core
	for p in open omz; do \
	  $(BIN)/facestream train caface caface-learned-$$p --out $(SIM)/heads/learned-$$p --install || exit 1; \
	  $(BIN)/facestream train caface caface-$$p --out $(SIM)/heads/caface-$$p --install || exit 1; \
	  $(BIN)/facestream train ida ida-$$p --out $(SIM)/heads/ida-$$p --install || exit 1; \
	done

# What the heads are compared with; benchmark-heads shows those that there are.
FUSERS := nan pfe cfan embedding quality guided
train-fusers: $(VENV)/.installed-dev  ## The fusers that are only compared with, for open and omz; an hour or two on one core
	for p in open omz; do for f in $(FUSERS); do \
	  $(BIN)/facestream train caface caface-$$f-$$p --out $(SIM)/heads/$$f-$$p || exit 1; \
	done; done

benchmark-heads: $(VENV)/.installed-dev  ## Fusion, IDA and quality on held-out faces, into docs/benchmarks; some hours on one core
	$(BIN)/facestream bench fusion --folder $(SIM)/banks --pack omz --pack open \
	  $(foreach f,$(FUSERS),$(addprefix --head ,$(wildcard $(SIM)/heads/$(f)-*/export/*.npz)))
	$(BIN)/facestream bench ida --folder $(SIM)/banks
	$(BIN)/facestream bench quality --folder $(SIM)/banks

# Needs the clips of $$FACESTREAM_ASSETS/video, and the faces beside them.
simulate-compare: $(VENV)/.installed  ## Simulated against real clips, into docs/simulate.md
	for p in easy medium hard night; do \
	  $(BIN)/facestream simulate --preset $$p --out $(SIM)/$$p --assets $(FACESTREAM_ASSETS) --scenes 2 --cameras 1 --seconds 6 --seed 1 || exit 1; \
	done
	$(BIN)/facestream simulate --preset crowd --out $(SIM)/crowd --assets $(FACESTREAM_ASSETS) --scenes 1 --cameras 1 --seconds 4 --seed 1
	$(BIN)/facestream simulate compare $(foreach p,easy medium hard night crowd,$(SIM)/$p) \
	  --real $(FACESTREAM_ASSETS)/video --every 5 --most 150 --write docs/simulate.md

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

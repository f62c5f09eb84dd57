# Two commands set everything up on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
# Processes that tests run in; each takes up to 3 GB. One thread each: several wait for each other
# on small models, where cores are short.
TESTERS ?= 2
BIN := $(VENV)/bin
export HF_HUB_OFFLINE := 1
export HF_DATASETS_OFFLINE := 1

.PHONY: setup demo test lint types docs clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))" \
		|| { echo "Python 3.11 to 3.13 is needed; name one with make PYTHON=python3.12"; exit 1; }
	@echo "setting up $(VENV): 1 to 3 minutes and 8 GB, less where packages are cached"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv -c constraints.txt
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -e ".[dev]" -c constraints.txt
	touch $@

demo: setup
	$(BIN)/autoprune search --budget 60% --trials 24 --name demo

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TESTERS) --dist loadfile

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

docs: setup
	$(BIN)/autoprune models --markdown > docs/models.md
	$(BIN)/autoprune spaces --markdown > docs/knobs.md

clean:
	rm -rf $(VENV) build *.egg-info

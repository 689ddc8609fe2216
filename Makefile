# Console scripts only, never `python -m` from here: this folder's `kernels/` would shadow the package of that name.
BIN := .venv/bin
PYTHON ?= python3
TORCH ?= torch==2.13.0
WORKERS ?= 2

.PHONY: demo test lab lint types

demo: .venv/installed
	$(BIN)/headlens demo

# Tests of a file stay together, since they share what they load. One thread each: more only get in each other's way.
test: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist loadfile

# JupyterLab comes with this target alone; nothing else needs it.
lab: .venv/notebook
	$(BIN)/jupyter lab notebooks

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Static tools cannot follow an editable install of mapped folders, so they read a plain copy.
types: .venv/installed
	$(BIN)/pip install -q --no-deps --upgrade --target build/typed .
	$(BIN)/pyright --pythonpath $(BIN)/python

# torch comes first and alone: asked for together, pip may prefer a newer, much larger build of it.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q "$(TORCH)"
	$(BIN)/pip install -q -c constraints.txt -e ".[dev]"
	touch $@

.venv/notebook: .venv/installed
	$(BIN)/pip install -q -c constraints.txt -e ".[notebook]"
	touch $@

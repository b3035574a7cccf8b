# Every target makes its own .venv and installs what it needs, with pip alone; a stamp per set of packages keeps
# later runs fast. `make` shows the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help serve test check format train preview clean

help: ## list the targets
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 18

serve: $(VENV)/.serve ## serve on 127.0.0.1:8000; LPR_BACKEND, LPR_PORT, ... choose otherwise
	exec $(BIN)/python -m service

test: $(VENV)/.dev ## run the tests
	$(BIN)/python -m pytest

check: $(VENV)/.dev ## ruff format and lint, mypy strict
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.dev ## format, and fix what lint can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

train: $(VENV)/.build ## train the baseline on rendered plates; ARGS="--help" shows the options
	$(BIN)/python -m model_builder train $(ARGS)

preview: $(VENV)/.build ## write a contact sheet of rendered plates; ARGS="--help" shows the options
	$(BIN)/python -m model_builder preview $(ARGS)

clean: ## remove the virtual environment and caches
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.pip: | $(BIN)/python
	$(PIP) --upgrade 'pip>=25.1,<27' # the first with dependency groups
	@touch $@

$(VENV)/.serve: pyproject.toml | $(VENV)/.pip
	$(PIP) --editable '.[torch]'
	@touch $@

$(VENV)/.build: pyproject.toml | $(VENV)/.pip
	$(PIP) --editable '.[build]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/.pip
	$(PIP) --editable '.[build]' --group dev
	@touch $@

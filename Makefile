# Two commands from a fresh clone: `make quickstart` and `make test`. Python 3.11+ is enough.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
WORK ?= quickstart-run

.PHONY: quickstart test lint install install-dev

quickstart: install
	$(BIN)/rsgen run quickstart --work $(WORK)

test: install-dev
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: install-dev
	$(BIN)/ruff check .
	$(BIN)/mypy rsgen cli

install: $(VENV)/.installed

install-dev: $(VENV)/.installed-dev

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install -q -c constraints.txt -e .
	touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[dev]"
	touch $@ $(VENV)/.installed

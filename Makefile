PYTHON ?= python3
PERIOD_PYTHON ?= python3.10
BIN = .venv/bin
PERIOD = .venv/period/bin

.PHONY: quickstart test test-all check compat exports speed

quickstart: .venv/installed
	$(BIN)/ela-yolo quickstart

test: check
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal
	$(BIN)/python tools/compat.py versions=oldest checks=contract

test-all: check
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal -m ""
	$(BIN)/python tools/compat.py versions=oldest checks=contract

compat: .venv/installed .venv/period/installed
	$(PERIOD)/python tools/compat.py
	$(BIN)/python tools/compat.py

exports: .venv/installed
	$(BIN)/python tools/exports.py

speed: .venv/installed
	$(BIN)/python tools/block_speed.py

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.venv/installed: pyproject.toml constraints.txt ela_yolo/autoload.pth ela_yolo/autoload.start ela_yolo/_start/__init__.py
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "The pinned versions need Python 3.11 or later; name one: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[dev]'
	@touch $@

.venv/period/installed: .venv/installed constraints-period.txt
	$(PERIOD_PYTHON) -m venv .venv/period
	$(PERIOD)/python -m pip install --constraint constraints-period.txt --editable '.[export]' \
		cloudpickle hatchling hypothesis pytest pytest-xdist timm
	@touch $@

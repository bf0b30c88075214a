# `make help` lists the targets. Those that need the environment set it up first.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
PYTHON ?= python3
CORES ?= $(shell $(PYTHON) -c "import os; print(len(os.sched_getaffinity(0)))")
BIN := .venv/bin
# uv, Snakemake and avpipe keep downloads in a cache folder; here, where the home folder cannot be written
export XDG_CACHE_HOME ?= $(shell test -w "$$HOME" && echo "$$HOME" || echo "$(CURDIR)")/.cache

.PHONY: help setup results quick llp-audioset report test test-slurm test-full format docs lock bench clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: .venv/.installed  ## create .venv and install exactly what requirements.lock pins

# The stamp names the lock it was made from, so that a changed lock or pyproject.toml installs again.
.venv/.installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("avpipe needs Python >= 3.11, found " + sys.version.split()[0] + "; set PYTHON=python3.x") if sys.version_info < (3, 11) else None'
	@# a changed lock updates the environment; an environment whose setup was interrupted is made again
	test -f $@ || $(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==0.13.8
	@# compiled here, once: where Python may not write bytecode, each process of the workflow would compile everything again
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $@

lock:  ## resolve requirements.lock again from pyproject.toml
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate --group lock --extra cpu pyproject.toml -o requirements.lock

SNAKEMAKE := $(BIN)/snakemake --cores $(CORES)

results: setup  ## fill every table and figure of the demo studies (results/demo, demo_motion, demo_separation)
	$(SNAKEMAKE) all
	for study in demo_motion demo_separation; do $(SNAKEMAKE) all --configfile workflow/configs/$$study.yaml; done
	@echo; cat results/demo/tables/avin_comparison.md
	@$(BIN)/avpipe results check || true

quick: setup  ## one table and one figure from a few rendered clips (results/quick)
	$(SNAKEMAKE) all --configfile workflow/configs/quick.yaml
	@echo; cat results/quick/tables/avin_fusion.md
	@echo; echo "The table: results/quick/tables/avin_fusion.md (.csv .tex .html); the figure: results/quick/figures/avin_segments.png (.svg)"

llp-audioset: setup  ## LLP's parsers pretrained on AudioSet, see workflow/configs/llp_audioset.yaml
	$(SNAKEMAKE) all --configfile workflow/configs/audioset_pretraining.yaml
	$(SNAKEMAKE) all --configfile workflow/configs/llp_audioset.yaml

report: results  ## Snakemake's report of the demo study: results/demo/report.zip
	$(SNAKEMAKE) --report results/demo/report.zip

test: setup  ## tests, linters and type checker
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile workflow/rules
	$(BIN)/mypy
	$(BIN)/snakemake --lint
	@# a free worker gets one or two tests at a time, slow tests first
	$(BIN)/pytest -n $(CORES) --dist load --maxschedchunk 2 --durations 30

test-slurm: setup  ## tests on a Slurm of one node, which they install and start; skipped where they may not
	$(BIN)/pytest -m slurm --durations 10 || { echo "Failed tests, once more:"; $(BIN)/pytest -m slurm --last-failed --last-failed-no-failures none; }

test-full: setup  ## only the tests of full-size networks
	$(BIN)/pytest -m full_size --durations 30

format: setup  ## format Python and Snakemake files
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile workflow/rules

docs: setup  ## generate docs/config.md, docs/models.md and the schema from the code
	$(BIN)/python -m avpipe.cli.docs

bench: setup  ## measure speed and memory: prints the table of benchmarks/README.md
	$(BIN)/python benchmarks/run.py

clean:  ## remove what the demo studies made
	rm -rf results/demo results/demo_motion results/demo_separation results/quick

# Two commands do all the set-up: `make demo` and `make test`. `make` alone lists the others.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV ?= .venv
BIN := $(VENV)/bin
DEMO_READY := $(VENV)/.ready-demo
DEV_READY := $(VENV)/.ready-dev
PYTEST_ARGS ?=
# Two files at a time, in order: tests of one file share what they set up, and those that wait most come early.
TWO_FILES := -n 2 --dist loadfile --no-loadscope-reorder
# Two processes with a thread each: with the threads of all cores in both, they wait for each other, up to 25 times as long.
ONE_THREAD := OMP_NUM_THREADS=1

# The first Python that is new enough and can make a virtual environment.
FIND_PYTHON = for name in $(or $(PYTHON),python3 python3.11 python3.12 python3.13); do \
	if "$$name" -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; \
	then command -v "$$name"; exit; fi; done; \
	echo "No Python 3.11, 3.12 or 3.13 with venv was found. Install one (Debian, Ubuntu: apt-get install python3-venv)" >&2; \
	echo "or name it: make demo PYTHON=/path/to/python3.11" >&2; exit 1
# Every file that is installed has a hash in requirements/; a package without a wheel (deepspeed) is built by tools that have one.
INSTALL = $(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --no-deps
HASHED = $(INSTALL) --require-hashes --no-build-isolation -r
TOOLS ?= $(VENV)/tools
COMPILE = $(TOOLS)/bin/uv pip compile --quiet --no-config --python-version 3.11 --python-platform linux --generate-hashes \
	--no-annotate --no-header -c constraints.txt

# wandb is large and has a file of its own: its tests run where it is installed.
DEV_EXTRAS = $(filter-out wandb,$(shell sed -n '/optional-dep/,/^$$/s/^\([a-z]*\) = \[$$/\1/p' pyproject.toml))

##@ Start here
.PHONY: demo
demo: $(DEMO_READY) $(if $(DATA),synthetic-to-real-shards) ## Install, make data, train, evaluate, show pictures; DATA=FOLDER: tested on real frames
	@$(BIN)/mgcda $(if $(DATA),train configs/benchmark/synthetic_to_real/full.yaml,demo)

.PHONY: small-real
small-real: small-real-shards ## DATA=FOLDER: train on CamVid, COCO and IDD-Lite, test on RoadAnomaly (under 30 minutes)
	@$(BIN)/mgcda train configs/small_real.yaml

.PHONY: small-real-shards
small-real-shards: $(DEMO_READY) ## DATA=FOLDER: write the shards of configs/small_real.yaml
	@test -d "$(DATA)" || { echo "Say where the data sets lie: make small-real DATA=/path/to/datasets" >&2; exit 1; }
	@for split in train val test; do $(BIN)/mgcda shards write camvid "$(DATA)/camvid" shards/camvid/$$split --split $$split; done
	@$(BIN)/mgcda shards write idd_lite "$(DATA)/idd20k_lite" shards/idd_lite/train --split train
	@for split in train val; do $(BIN)/mgcda shards write coco "$(DATA)/coco" shards/coco_objects/$$split --split $$split; done
	@$(BIN)/mgcda shards write road_anomaly "$(DATA)/road_anomaly" shards/road_anomaly/test --split test
	@$(BIN)/mgcda shards write lost_and_found "$(DATA)/lost_and_found" shards/lost_and_found/test --split test

# What validates and what tests share no drive, and no photo that objects are cut from.
.PHONY: benchmark-shards
benchmark-shards: small-real-shards ## DATA=FOLDER: … and those of the sets of configs/benchmark/multi_source
	@$(BIN)/mgcda shards write camvid "$(DATA)/camvid" shards/benchmark/camvid_test --split test --only 'Seq05VD_*'
	@$(BIN)/mgcda shards write idd_lite "$(DATA)/idd20k_lite" shards/benchmark/idd_validation --split val --only '*[02468]/*'
	@$(BIN)/mgcda shards write idd_lite "$(DATA)/idd20k_lite" shards/benchmark/idd_test --split val --only '*[13579]/*'
	@$(BIN)/mgcda shards write coco "$(DATA)/coco" shards/benchmark/objects_validation --split val --only '*[02468]_*'
	@$(BIN)/mgcda shards write coco "$(DATA)/coco" shards/benchmark/objects_test --split val --only '*[13579]_*'

.PHONY: synthetic-to-real-shards
synthetic-to-real-shards: benchmark-shards ## DATA=FOLDER: … and the generated ones of configs/benchmark/synthetic_to_real
	@$(BIN)/mgcda shards synth shards/rendered --frames-per-domain 500 --label-all

.PHONY: test
test: $(DEV_READY) ## Run the whole test suite
	@$(ONE_THREAD) $(BIN)/python -m pytest $(TWO_FILES) $(PYTEST_ARGS)

.PHONY: test-fast
test-fast: $(DEV_READY) ## Run the tests that take seconds
	@$(ONE_THREAD) $(BIN)/python -m pytest -m "not slow and not cluster" $(TWO_FILES) $(PYTEST_ARGS)

.PHONY: test-cluster
test-cluster: $(DEV_READY) ## Run what takes minutes: two nodes (as root: in namespaces), MLflow served and in a browser
	@$(BIN)/python -m pytest tests -m "extended or cluster" $(PYTEST_ARGS)

.PHONY: docs
docs: $(DEV_READY) ## Build the documentation site, strictly and without the network: build/site/index.html
	@$(BIN)/python -m docs.site

# A machine with a GPU needs little for it, and no environment of ours: PYTHON=…, or .venv where there is one.
.PHONY: gpu-check
gpu-check: ## Check one GPU and measure training on it, in 8 minutes; needs torch and timm alone: PYTHON=python3
	@$(or $(PYTHON),$(wildcard $(BIN)/python),python3) -m benchmarks.gpu $(GPU_ARGS)

# Alone on the machine, and with a number of workers or threads of its own: no ONE_THREAD, no TWO_FILES.
.PHONY: bench
bench: $(DEV_READY) ## Measure the ratios of the system on processors, in about 20 minutes: build/bench.json, bench.md
	@$(BIN)/python -m benchmarks.bench $(BENCH_ARGS)

.PHONY: bench-check
bench-check: $(DEV_READY) ## … those that are no seconds, and compare them with benchmarks/results/bench.json; 1: one fell
	@$(BIN)/python -m benchmarks.bench --check $(BENCH_ARGS)

##@ Checks
.PHONY: lint
lint: $(DEV_READY) ## Check style and format (ruff)
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check . || { echo "Run: make format"; exit 1; }
	@echo "lint: ok"

.PHONY: types
types: $(DEV_READY) ## Check types (pyright; strict on the method, the configuration and the evaluation)
	@$(BIN)/pyright --pythonpath $(BIN)/python --warnings
	@echo "types: ok"

.PHONY: imports
imports: $(DEV_READY) ## Check the import direction (import-linter)
	@$(BIN)/lint-imports --no-logo --no-cache
	@echo "imports: ok"

.PHONY: check
check: lint types imports docs test ## All of the above

.PHONY: format
format: $(DEV_READY) ## Fix style and format
	@$(BIN)/ruff check --quiet --fix . || true
	@$(BIN)/ruff format --quiet .

.PHONY: audit
audit: $(TOOLS)/.ready ## Ask PyPI for known vulnerabilities of every pinned version (needs its database: see SECURITY.md)
	@rm -f $(TOOLS)/found.txt; for file in demo dev wandb build mlflow tools; do \
		$(TOOLS)/bin/pip-audit --strict --disable-pip --require-hashes --progress-spinner off \
			-r requirements/$$file.txt -f columns -o $(TOOLS)/found.txt > $(TOOLS)/log.txt 2>&1 && continue; \
		if [ -s $(TOOLS)/found.txt ]; then cat $(TOOLS)/found.txt; exit 1; fi; \
		tail -n 1 $(TOOLS)/log.txt >&2; \
		echo "audit: NOT DONE for requirements/$$file.txt: its database could not be asked, or does not know a package" >&2; \
		exit 2; done; echo "audit: no known vulnerability"

##@ House
.PHONY: lock
lock: $(TOOLS)/.ready ## Pin what pyproject.toml wants, as constraints.txt says where it does; hashes of all files to requirements/
	@$(COMPILE) --extra train --extra demo pyproject.toml -o requirements/demo.txt
	@sed -n 's/^\([^ =[]*\).*==.*/--no-emit-package \1/p' requirements/demo.txt | xargs $(COMPILE) $(DEV_EXTRAS:%=--extra %) \
		pyproject.toml -o requirements/dev.txt
	@sed -n 's/^\([^ =[]*\).*==.*/--no-emit-package \1/p' requirements/demo.txt requirements/dev.txt | xargs $(COMPILE) --extra wandb \
		pyproject.toml -o requirements/wandb.txt
	@for name in build mlflow tools; do $(COMPILE) requirements/$$name.in -o requirements/$$name.txt; done
	@{ head -n 1 constraints.txt; sed -n 's/^\([^[ =]*\)[^ =]*==\([^ ;]*\).*/\1==\2/p' requirements/demo.txt requirements/dev.txt \
		requirements/wandb.txt | LC_ALL=C sort; } > $(TOOLS)/constraints.txt && mv $(TOOLS)/constraints.txt constraints.txt

.PHONY: release
release: $(DEMO_READY) $(TOOLS)/.ready ## Build sdist and wheel into dist/, check both, write the notes; uploads nothing
	@$(BIN)/python .ci/release.py --out dist --twine $(TOOLS)/bin/twine
	@$(MAKE) sbom

.PHONY: sbom
sbom: $(TOOLS)/.ready ## Write dist/sbom.json: every package that a training needs, with version and hashes (CycloneDX)
	@mkdir -p dist
	@PYTHONWARNINGS=ignore $(TOOLS)/bin/cyclonedx-py requirements requirements/demo.txt --pyproject pyproject.toml --mc-type library \
		--output-reproducible --of JSON -o dist/sbom.json
	@echo "sbom: dist/sbom.json"

.PHONY: install
install: $(DEMO_READY) ## Make .venv and install what training needs

.PHONY: install-dev
install-dev: $(DEV_READY) ## … and what the tests need

.PHONY: clean
clean: ## Remove .venv, the demo shards and all caches; keep runs
	@rm -rf $(VENV) shards/demo build dist .hypothesis .import_linter_cache .pytest_cache .ruff_cache
	@find mgcda_dist tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: help
help:
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} \
		/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

$(BIN)/python:
	@found=$$($(FIND_PYTHON)); echo "Making $(VENV) with $$("$$found" -V)"; "$$found" -m venv $(VENV)

$(DEMO_READY): pyproject.toml requirements/build.txt requirements/demo.txt | $(BIN)/python
	@echo "Installing into $(VENV): some minutes and 7 GB the first time (torch brings its CUDA libraries)"
	@$(HASHED) requirements/build.txt
	@$(HASHED) requirements/demo.txt
	@$(INSTALL) --no-build-isolation -e .
	@touch $@

$(DEV_READY): $(DEMO_READY) requirements/dev.txt
	@echo "Installing the tools for tests into $(VENV)"
	@$(HASHED) requirements/dev.txt
	@touch $@

$(TOOLS)/.ready: requirements/tools.txt | $(BIN)/python
	@test -x $(TOOLS)/bin/python || $(BIN)/python -m venv $(TOOLS)
	@$(TOOLS)/bin/python -m pip install --quiet --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements/tools.txt
	@touch $@

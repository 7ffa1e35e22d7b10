# Everything there is to do with a checkout. `make demo` and `make test` need nothing installed but git, make and Python 3.11.
SHELL := bash
unexport PYTHONDONTWRITEBYTECODE
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
export UV_SYSTEM_CERTS := 1
export NODE_EXTRA_CA_CERTS ?= $(wildcard /etc/ssl/certs/ca-certificates.crt)
export UV_COMPILE_BYTECODE := 1
export ORT_DISABLE_TELEMETRY := 1

PYTHON ?= python3.11
STATE := .penstock
UV := $(STATE)/tools/uv/bin/uv
RUN := .venv/bin
BUF := $(STATE)/tools/buf/node_modules/.bin/buf
BUF_VERSION := 1.75.0
MEMBERS := protos models cli $(wildcard services/*)
MEMBER_FILES := $(addsuffix /pyproject.toml,$(MEMBERS))
VERSION := $(or $(PENSTOCK_VERSION),0.1.0)
SERVICES := gateway orchestrator embedding inference vector-search feature-store
CODE := conftest.py protos/generate.py services models cli deploy platform-tests

.PHONY: help
help: ## Print every target
	@grep -hE '^[a-z][a-z-]*:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "  \033[1m%-14s\033[0m %s\n", $$1, $$2}'

# --- use it ---
.PHONY: demo up down clean models setup
demo: up ## Start everything, take in this project's own docs, ask a question, show the answer and where the time went
	@$(RUN)/penstock ingest docs README.md docs services models/README.md
	@$(RUN)/penstock ask docs "What happens when the chosen model cannot be reached?"

up: setup ## Start every service in the background; returns when all are ready
	@$(RUN)/penstock up

down: ## Stop every service
	@test ! -x $(RUN)/penstock || $(RUN)/penstock down

clean: down ## Stop, and remove data, logs and keys (environments and models stay)
	rm -rf $(addprefix $(STATE)/,data logs keys traces bench dev.env supervisord.conf supervisord.pid)

setup: $(STATE)/stamps/venv $(STATE)/stamps/triton models ## Install everything the stack needs

models: $(STATE)/stamps/venv ## Build the Triton model repository for this machine
	@$(RUN)/python -m model_repository build --target cpu --output $(STATE)/models

# --- check it ---
.PHONY: check test format lint types imports protos-check chart-check chart-test
check: format lint types imports protos-check chart-check test ## Everything CI checks

test: setup ## Run every test
	@$(RUN)/pytest $(PYTEST_ARGS)

format: $(STATE)/stamps/venv ## Check the format of the code
	@$(RUN)/ruff format --check $(CODE)

lint: $(STATE)/stamps/venv ## Check the code
	@$(RUN)/ruff check $(CODE)

types: $(STATE)/stamps/venv ## Check types
	@$(RUN)/mypy

imports: $(STATE)/stamps/venv ## Check who may import whom
	@$(RUN)/lint-imports

protos-check: $(STATE)/stamps/venv $(BUF) ## Check the protos, that they break no older caller, and that their generated code is up to date
	@$(BUF) lint protos
	@$(BUF) breaking protos --against protos/baseline.binpb
	@PATH="$(CURDIR)/$(RUN):$$PATH" $(RUN)/python protos/generate.py --check

chart-check: $(STATE)/stamps/venv ## Check that the chart's table and schema and the plain manifests are what they are made of
	@$(RUN)/python -m deploy.rendering --check

chart-test: $(STATE)/stamps/venv ## Run the chart's CPU profile in Docker, pod by pod, and `helm test` against it; needs the images of make images
	@$(RUN)/python -m deploy.trial

# --- contain it ---
.PHONY: images images-previous compose-up compose-down compose-test compose-test-default compose-test-scale compose-test-upgrade
images: ## Build the images; print of each the size and where its bill of materials is
	@deploy/images/build $(STATE) $(SERVICES) triton

images-previous: ## Build the images of the release before, which the upgrade is tested from; PENSTOCK_PREVIOUS names a commit
	@deploy/images/previous $(STATE)/previous $(SERVICES) triton

compose-up: ## Start the containers and make the first keys; PROFILE=scale for the larger installation
	@deploy/compose/up $(or $(PROFILE),default)

compose-down: ## Stop the containers; their volumes stay
	@deploy/compose/run $(or $(PROFILE),default) down

compose-test: setup images images-previous compose-test-default compose-test-scale compose-test-upgrade ## Build, and test the containers from outside: both profiles, kills, backup, upgrade (needs a Docker Engine)

compose-test-default compose-test-scale: compose-test-%: # of what is built already
	@PENSTOCK_TEST_COMPOSE=$* PENSTOCK_TEST_COMPOSE_VERSION=$(VERSION) $(RUN)/pytest -s platform-tests/tests $(PYTEST_ARGS)

compose-test-upgrade:
	@PENSTOCK_TEST_COMPOSE=scale PENSTOCK_TEST_COMPOSE_VERSION=previous PENSTOCK_TEST_COMPOSE_NEXT=$(VERSION) \
	  PENSTOCK_TEST_COMPOSE_CHECKOUT=$(STATE)/previous/checkout $(RUN)/pytest -s platform-tests/tests/test_compose_upgrade.py $(PYTEST_ARGS)

# --- measure it ---
.PHONY: bench eval
bench: setup ## Measure speed and memory against baselines of the same run; JSON in .penstock/bench
	@$(RUN)/python platform-tests/bench

eval: setup ## Measure answers on a SQuAD-format file: make eval DATA=path/to/file.json
	@$(RUN)/python platform-tests/evaluate.py $(DATA)

# --- change it ---
.PHONY: fix protos protos-baseline locks chart
fix: $(STATE)/stamps/venv ## Format the code and mend what can be mended
	@$(RUN)/ruff check --fix $(CODE) || true
	@$(RUN)/ruff format $(CODE)

protos: $(STATE)/stamps/venv ## Generate code from the protos
	@PATH="$(CURDIR)/$(RUN):$$PATH" $(RUN)/python protos/generate.py

protos-baseline: $(BUF) ## Take the protos as they are for what later ones may not break; a release does
	@$(BUF) build protos --exclude-source-info -o protos/baseline.binpb

chart: $(STATE)/stamps/venv ## Write the chart's table and schema and the plain manifests anew, from deploy/services.yaml, the chart and the code
	@$(RUN)/python -m deploy.rendering

locks: $(UV) ## Resolve dependencies anew and write requirements/*.lock
	@deploy/local/lock $(UV) $(SERVICES) models

# --- what is installed ---
$(UV): requirements/uv.lock
	@deploy/local/install-tools $(PYTHON) $(STATE)/tools/uv

$(STATE)/stamps/venv: requirements/dev.lock $(MEMBER_FILES) | $(UV)
	@mkdir -p $(@D)
	@test -x $(RUN)/python || $(UV) venv --quiet --python $(PYTHON) .venv
	@$(UV) pip sync --quiet --python $(RUN)/python --require-hashes requirements/dev.lock
	@$(UV) pip install --quiet --python $(RUN)/python --no-deps --no-build-isolation $(addprefix --editable ,$(MEMBERS))
	@touch $@

$(STATE)/stamps/triton: requirements/triton.lock | $(UV)
	@mkdir -p $(@D)
	@$(UV) venv --quiet --clear --python $(PYTHON) $(STATE)/env/triton
	@$(UV) pip sync --quiet --python $(STATE)/env/triton/bin/python --require-hashes requirements/triton.lock
	@touch $@

$(BUF):
	@command -v npm >/dev/null || { echo "make protos-check needs npm (Debian: apt-get install npm)" >&2; exit 1; }
	@mkdir -p $(STATE)/tools/buf
	@npm install --silent --fetch-retries 1 --prefix $(STATE)/tools/buf --no-save --no-audit --no-fund @bufbuild/buf@$(BUF_VERSION)

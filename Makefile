# What a person needs: `make demo` shows it, `make test` proves it. `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
SEEDS ?= 1000
MINUTES ?= 1

# Many processes start, in the demo and in the suite: what one of them has compiled, the others need not.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint types bench simulate chaos screenshots lock schemas reference docs sbom audit clean

help: ## what can be made
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | sort | while IFS="$$(printf '\t')" read -r name what; do printf '  make %-10s %s\n' "$$name" "$$what"; done

setup: $(STAMP) ## packages in .venv, pinned by hash; .venv/bin/skeldir

$(STAMP): requirements/dev.lock pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Skeldir needs Python 3.11 or newer; say which one with make PYTHON=...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: setup ## the whole system, every case, as it happens (under a minute)
	$(BIN)/python -m skeldir.demo

test: setup ## the whole suite, on real servers
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: setup ## style, types, import directions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

simulate: setup ## seeded histories: make simulate SEEDS=n, or SEED=n for one
	$(BIN)/python -m tests.simulation $(if $(SEED),--seed $(SEED),--seeds $(SEEDS))

chaos: setup ## real processes and servers under fire: make chaos MINUTES=n
	$(BIN)/python -m tests.chaos --minutes $(MINUTES)

bench: setup ## measured beside the limits, in one run; SHORT=1: two minutes, compared with the committed ratios
	$(BIN)/python -m tests.bench $(if $(SHORT),--short)

screenshots: setup ## docs/images again, in a Chromium
	$(BIN)/python -m tests.screenshots

reference: setup schemas ## docs/reference from the code
	$(BIN)/python -m tests.reference

docs: setup ## the site of docs/, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

sbom: setup ## the bill of materials (CycloneDX), in dist/
	$(BIN)/python -m tests.supply_chain.sbom

audit: setup ## known weaknesses of what is pinned; asks PyPI, and fails where that cannot be asked
	$(BIN)/pip-audit --strict --disable-pip --require-hashes --progress-spinner off -r requirements/dev.lock

schemas: setup ## AsyncAPI and JSON Schemas from the code
	$(BIN)/python -m shared.events.schemas

lock: ## pin all dependencies with hashes (needs uv)
	uv pip compile --no-strip-extras --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --output-file requirements/dev.lock --group dev pyproject.toml
	uv pip compile --no-strip-extras --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --output-file requirements/runtime.lock --extra archive pyproject.toml

clean: ## everything that was made
	rm -rf $(VENV) .skeldir artifacts dist site

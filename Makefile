# Tenure: `make demo` shows it, `make test` proves it, `make help` lists the rest.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
UV_ENV := UV_NO_CONFIG_WARNINGS=1 VIRTUAL_ENV=$(CURDIR)/$(VENV)

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

# The environment: made from hashes, remade only when the lock or the project file changes.
$(READY): pyproject.toml requirements/development.txt
	@command -v $(PYTHON) >/dev/null || { echo "Tenure needs Python 3.11 or later as '$(PYTHON)'; set PYTHON=..."; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Tenure needs Python 3.11 or later, '$(PYTHON)' is $$($(PYTHON) -V)"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@command -v uv >/dev/null || test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@export VIRTUAL_ENV=$(CURDIR)/$(VENV); UV=$$(command -v uv || echo $(BIN)/uv); \
	  $$UV pip install --quiet --require-hashes -r requirements/development.txt && \
	  $$UV pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

install: $(READY) ## make .venv from the lock

demo: $(READY) ## a company's background work, done before your eyes
	@$(BIN)/tenure demo

up: $(READY) ## start the local stack and leave it running
	@$(BIN)/tenure up --detach

down: $(READY) ## stop what `make up` started
	@$(BIN)/tenure down

test: lint ## lint, types, import contracts and every test
	@$(BIN)/pytest -n 3 --dist worksteal

test-days: $(READY) ## calendar-dependent tests on other days: ON=, or drawn by SEED= COUNT=; TESTS= of each day
	@$(BIN)/python -m tests.support.time.days $(ON) $(if $(SEED),--seed $(SEED)) $(if $(COUNT),--count $(COUNT)) $(if $(TESTS),--tests $(TESTS))

faults: $(READY) ## random faults for SECONDS= (60), repeatable by SEED=; plans over HISTORY= (200000) rows a table
	@FAULT_SECONDS=$(or $(SECONDS),60) FAULT_SEED=$(SEED) FORECAST_CUSTOMERS=200 \
	  $(BIN)/pytest -q -s tests/faults/test_soak.py tests/faults/test_mail_servers.py \
	  tests/integration/mail/test_matrix.py tests/integration/reminders/test_forecast.py
	@HISTORY=$(or $(HISTORY),200000) $(BIN)/pytest -q tests/integration/observe/test_query_bounds.py

bench: $(READY) ## the benchmark table, or one row of it: ROW=P1
	@$(BIN)/python -m benchmarks $(ROW)

lint: $(READY) ## ruff, mypy --strict, import-linter
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

format: $(READY) ## rewrite the code in the house format
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

migrate: $(READY) ## bring the database at TENURE_DATABASE_URL to the newest schema
	@$(BIN)/tenure migrate

revision: $(READY) ## write the next revision of the schema from the models: NAME=usage_digests
	@$(BIN)/python -m workers.local.revision $(NAME)

golden: $(READY) ## rewrite the golden files from what is rendered now
	@$(BIN)/pytest -q -p no:cacheprovider tests/golden tests/unit -k golden --rewrite-golden

lock: $(READY) ## resolve the dependencies anew (hashes, no addresses)
	@for set in "production:" "development:--all-extras --group dev"; do \
	  UV_CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	    --no-emit-index-url --upgrade $${set#*:} pyproject.toml -o requirements/$${set%%:*}.txt; done

.PHONY: help install demo up down test test-days faults bench lint format migrate revision golden lock

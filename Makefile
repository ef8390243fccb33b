# `make` lists what there is. A line that is one plain command is run without a shell between, so that
# a SIGTERM sent to make reaches the command itself.
.DEFAULT_GOAL := help
.PHONY: help run services login demo test lint format lock check-lock chaos bench screenshots

PYTHON := .venv/bin/python
PARALLEL := -n 3  # tests wait more than they compute
COMPILE := UV_CUSTOM_COMPILE_COMMAND="make lock" $(PYTHON) -m uv pip compile --quiet --no-config --universal \
	--generate-hashes --python-version 3.12 --no-emit-index-url --no-emit-find-links

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

run: ## start everything here: web, worker, sandbox and Valkey; Ctrl-C stops it
	@bin/prepare
	@$(PYTHON) manage.py run

services: ## start only Valkey and the sandbox, for runserver and rqworker by hand
	@bin/prepare
	@$(PYTHON) manage.py services

login: ## print a fresh one-time login link
	@bin/prepare
	@$(PYTHON) manage.py login

demo: ## fill an empty Mailsite with a week of made-up mail, in the sandbox
	@bin/prepare
	@$(PYTHON) manage.py demo

test: ## run all tests, those of the stores on PostgreSQL too; ARGS="-k word" runs some, on SQLite
	@bin/prepare dev
	@$(PYTHON) -m pytest $(or $(ARGS),$(PARALLEL))
	@$(if $(ARGS),:,$(PYTHON) -m pytest -m stores --postgresql $(PARALLEL))

chaos: ## kill everything at random moments and count the mail; ARGS="--help" tells how to choose
	@bin/prepare dev
	@$(PYTHON) -m chaos $(ARGS)

bench: ## measure Mailsite beside its peers; bench/README.md tells how, ARGS="--help" how to choose
	@bin/prepare dev
	@$(PYTHON) -m bench $(ARGS)

screenshots: ## make the pictures in docs/screenshots, of a Mailsite of its own
	@bin/prepare dev
	@$(PYTHON) -m tests.screenshots

lint: ## check style and types
	@bin/prepare dev
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

format: ## put the code into its standard form
	@bin/prepare dev
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

lock: ## write the requirements*.txt from their requirements*.in; ARGS=--upgrade takes newer versions
	@bin/prepare dev
	$(COMPILE) $(ARGS) requirements.in --output-file requirements.txt
	$(COMPILE) $(ARGS) requirements-dev.in --output-file requirements-dev.txt
	$(COMPILE) $(ARGS) bench/requirements.in --output-file bench/requirements.txt

check-lock: ## check that requirements*.txt match requirements*.in
	@bin/prepare dev
	@set -e; work=$$(mktemp -d); trap 'rm -rf "$$work"' EXIT; mkdir "$$work/bench"; \
	cp requirements*.txt "$$work"; cp bench/requirements.txt "$$work/bench"; \
	for lock in requirements requirements-dev bench/requirements; do \
		$(COMPILE) $$lock.in --output-file "$$work/$$lock.txt"; \
		cmp -s $$lock.txt "$$work/$$lock.txt" || \
			{ echo "$$lock.txt does not match $$lock.in: run 'make lock' and commit what changes." >&2; exit 1; }; \
	done; \
	echo "All requirements.txt match their sources."

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed

# Django 6 needs a newer Python than Debian 12 has: whatever is here and new enough.
OTHER := .venv-other
NEWER = $(or $(shell for each in python3.14 python3.13 python3.12 $(PYTHON) \
	$(HOME)/.pyenv/versions/3.1[2-9]*/bin/python3; do \
	$$each -c 'import sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null \
	&& echo $$each && break; done),$(PYTHON))

PEERS := .venv-peers

# What must be on the machine, as command=package. Installed only where missing.
DEBIAN_PACKAGES := git=git python3=python3 cc=gcc openssl=openssl promtool=prometheus
# The same for modules that Debian splits from Python, as module=package.
DEBIAN_MODULES := ensurepip=python3-venv
# And for files: the tests that replay a power loss compile a small recorder.
DEBIAN_FILES := /usr/include/stdio.h=libc6-dev

# What is tested with other versions of Django and SQLAlchemy as well.
VERSIONS := $(wildcard tests/frameworks/test_django*.py tests/frameworks/test_sqlalchemy*.py)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help system $(VENV) demo demo-django demo-fastapi demo-flask demo-collector peers test coverage check fix bench soak lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z$$().A-Z-]+:.*## / { sub(/\$$\(VENV\)/, "$(VENV)", $$1); printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

system: ## Install the Debian packages that are missing (as root or with sudo)
	@missing=""; \
	for pair in $(DEBIAN_PACKAGES); do \
		command -v "$${pair%%=*}" >/dev/null 2>&1 || missing="$$missing $${pair#*=}"; \
	done; \
	for pair in $(DEBIAN_MODULES); do \
		$(PYTHON) -c "import $${pair%%=*}" >/dev/null 2>&1 || missing="$$missing $${pair#*=}"; \
	done; \
	for pair in $(DEBIAN_FILES); do \
		[ -e "$${pair%%=*}" ] || missing="$$missing $${pair#*=}"; \
	done; \
	[ -n "$$missing" ] || exit 0; \
	echo "missing:$$missing"; \
	command -v apt-get >/dev/null 2>&1 || { echo "no apt-get here: install them by hand" >&2; exit 1; }; \
	if [ "$$(id -u)" -eq 0 ]; then as_root=""; \
	elif command -v sudo >/dev/null 2>&1; then as_root="sudo"; \
	else echo "not root and no sudo: install them by hand" >&2; exit 1; fi; \
	$$as_root apt-get update -q && $$as_root apt-get install -q -y --no-install-recommends $$missing

$(VENV): $(INSTALLED) ## Create the environment from requirements.lock

$(INSTALLED): requirements.lock pyproject.toml
	@$(MAKE) --no-print-directory system
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or later is needed: make PYTHON=python3.12" >&2; exit 1; }
	[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

$(OTHER)/installed: requirements-versions.lock pyproject.toml $(INSTALLED)
	@$(NEWER) -c 'import sys; sys.exit(sys.version_info < (3, 12))' \
		|| echo "No Python 3.12 or later is here, so Django 6 is not tested." >&2
	[ -x $(OTHER)/bin/python ] || $(NEWER) -m venv $(OTHER)
	$(OTHER)/bin/python -m pip install --quiet --no-deps --require-hashes -r requirements-versions.lock
	@touch $@

peers: $(PEERS)/installed ## Create the environment of the libraries that capture is measured beside

$(PEERS)/installed: benchmarks/peers/requirements.lock | $(INSTALLED)
	[ -x $(PEERS)/bin/python ] || $(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --no-deps --require-hashes -r $<
	@touch $@

demo: $(INSTALLED) ## Show what Indelible does
	./demo/run

demo-django: $(INSTALLED) ## Show a Django shop whose rows, users and jobs are audited
	./demo/example django_shop SHOP_HOME manage.py demo

demo-fastapi: $(INSTALLED) ## Show a FastAPI service with SQLAlchemy
	./demo/example fastapi_service SERVICE_HOME demo.py

demo-flask: $(INSTALLED) ## Show a Flask application with SQLAlchemy
	./demo/example flask_app HELPDESK_HOME demo.py

demo-collector: $(INSTALLED) ## Show a collector on PostgreSQL, two producers and an outage
	./demo/collector

test: $(INSTALLED) $(OTHER)/installed ## Run the tests
	$(BIN)/python -m pytest -n 2 --dist loadfile
	PYTHONPATH=src $(OTHER)/bin/python -m pytest -n 2 --dist loadfile $(VERSIONS)

coverage: $(INSTALLED) ## Run the tests and report branch coverage, which takes half as long again
	$(BIN)/python -m pytest -n 2 --dist loadfile --cov --cov-report=term

check: $(INSTALLED) ## Lint, check the format and the types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

fix: $(INSTALLED) ## Format, and repair what the linter can
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

bench: $(INSTALLED) $(PEERS)/installed ## Run the benchmarks
	$(BIN)/python -m benchmarks

soak: $(INSTALLED) ## Run the tests that take minutes
	$(BIN)/python -m pytest -m soak

lock: $(INSTALLED) ## Write requirements.lock anew from pyproject.toml
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
		--no-header --no-emit-index-url --no-config --no-strip-extras --upgrade \
		--extra cli --extra kms --group dev --output-file requirements.lock pyproject.toml
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
		--no-header --no-emit-index-url --no-config --no-strip-extras --upgrade \
		--group versions --output-file requirements-versions.lock pyproject.toml
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
		--no-header --no-emit-index-url --no-config --no-strip-extras --upgrade \
		--output-file benchmarks/peers/requirements.lock benchmarks/peers/requirements.in
	$(BIN)/uv pip compile --quiet --universal --python-version 3.13 --generate-hashes \
		--no-header --no-emit-index-url --no-config --no-annotate --no-strip-extras \
		--constraint requirements.lock --extra cli --extra collector --extra otel \
		--output-file deploy/requirements.lock pyproject.toml deploy/requirements.in
	$(BIN)/uv pip compile --quiet --universal --python-version 3.13 --generate-hashes \
		--no-header --no-emit-index-url --no-config --no-annotate \
		--constraint requirements.lock --group build --output-file deploy/build.lock

clean: ## Remove the environment, caches and what was built
	rm -rf $(VENV) $(OTHER) $(PEERS) build dist htmlcov .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find src tests benchmarks -type d -name __pycache__ -prune -exec rm -rf {} +

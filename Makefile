# The whole of a checkout's life. `make help` lists it.
PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
STAMP  := $(VENV)/.installed
# The sockets are also tried with the client in JavaScript, where there is npm.
SCRIPTS := tests/integration/javascript
NPM_STAMP := $(VENV)/.scripts
INSTALL := $(PY) deploy/local/install.py
SERVICES := $(foreach service,$(wildcard services/*),$(service)/$(notdir $(service)))
# A file's tests share what they started, so they stay together.
PYTEST := $(PY) -m pytest -q -n 2 --dist loadfile
export PYTHONPATH := deploy:tests

.DEFAULT_GOAL := help
.PHONY: help setup demo run test tested unit integration lint types bench bench-gpu clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(STAMP) ## install everything into .venv

$(STAMP): requirements.txt constraints.txt tests/hub/beside/sitecustomize.py $(wildcard libs/*/pyproject.toml services/*/pyproject.toml clients/python/pyproject.toml)
	@$(PYTHON) deploy/local/check_python.py
	@echo "setting up $(VENV) (a few minutes the first time)"
	@# One whose making was interrupted has no pip.
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@$(INSTALL) "pip itself" -c constraints.txt pip setuptools
	@# What is used of them is compiled when it is first used; most never is.
	@$(INSTALL) "packages" --no-compile --no-build-isolation -r requirements.txt
	@# Beside the rest: docs/decisions/010 says why.
	@$(INSTALL) "torchvision" --no-compile -c constraints.txt --no-deps --upgrade \
		--target $(VENV)/beside timm torchvision
	@cp tests/hub/beside/sitecustomize.py $(VENV)/beside/
	@touch $@

$(NPM_STAMP): $(SCRIPTS)/package.json | $(STAMP)
	@if command -v npm >/dev/null; then \
		npm install --prefix $(SCRIPTS) --loglevel=error --no-audit --no-fund; fi
	@touch $@

demo: $(STAMP) ## from a model's URL to a module's answer, on this machine alone (ONCE=1: end when done)
	@$(PY) -m local.demo $(if $(filter-out 0 no,$(ONCE)),--once)

run: $(STAMP) ## serve at http://127.0.0.1:8080 (PORT and LILYPAD_HOME move it)
	@$(PY) -m local run

test: $(STAMP) $(NPM_STAMP) lint ## everything: lint, types, unit and integration tests
	@# The tests wait often enough for the types to be looked at meanwhile.
	@$(MAKE) --no-print-directory -j 2 types tested

tested:
	@$(PYTEST)

lint: $(STAMP) ## ruff
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .

types: $(STAMP) ## mypy, strict
	@$(VENV)/bin/mypy libs/common/common $(SERVICES) clients/python/lilypad_client deploy/local tests/hub

unit: $(STAMP) ## the packages' own tests
	@$(PYTEST) libs services clients deploy tests/hub

integration: $(STAMP) $(NPM_STAMP) ## the whole stack with real servers
	@$(PYTEST) tests/integration

bench: $(STAMP) ## measure, and print ratios side by side
	@$(PY) -m benchmarks

bench-gpu: $(STAMP) ## the benchmarker's GPU paths, on a machine with an NVIDIA GPU
	@$(PY) -m benchmarks benchmarking_gpu

pins: $(STAMP) ## write, resolve and check what each family of modules installs, for a release
	@$(PY) services/generator/tests/pins.py
	@for file in services/generator/generator/templates/requirements/*.txt; do \
		echo "$$file"; \
		$(PY) -m pip install -q --disable-pip-version-check --dry-run --ignore-installed \
			-c constraints.txt -r $$file || exit 1; \
	done
	@$(PY) -m pytest -q services/generator/tests/test_pins.py

clean: ## forget the environment and the local data
	rm -rf $(VENV) .lilypad

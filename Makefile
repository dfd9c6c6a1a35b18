# Everything that a checkout needs. `make help` lists it.
PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
STAMP  := $(VENV)/.installed
# JavaScript packages, installed by the Node from setup; npm's own scripts look for it on the path.
SCRIPTS := tests/integration/javascript
NPM_STAMP := $(VENV)/.scripts
INSTALL := $(PY) deploy/local/install.py
# Packages of the pages, which every install needs.
PAGES := services/gateway/gateway/pages
COMPILED := torch transformers diffusers sympy scipy accelerate huggingface_hub sentence_transformers
SERVICES := $(foreach service,$(wildcard services/*),$(service)/$(notdir $(service)))
# Tests that share a stack run together (conftest.py); packages run one after the other, so that
# their servers end.
PYTEST := $(PY) -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder
export PYTHONPATH := deploy:tests
# Containers often set it; every process would then compile the libraries again, for 15 s of CPU.
unexport PYTHONDONTWRITEBYTECODE
# Fetched and tried models take gigabytes: if /tmp has less than four, they go into the checkout.
ifneq ($(shell df -Pk "$${TMPDIR:-/tmp}" 2>/dev/null | awk 'NR == 2 && $$4 < 4194304'),)
export TMPDIR := $(CURDIR)/.lilypad/tmp
endif

# Caches lie in the home. In a container an account may have none, or one that it may not write to.
ifeq ($(shell test -d "$$HOME" && test -w "$$HOME" && echo home),)
export HOME := $(CURDIR)/.lilypad/home
endif

.DEFAULT_GOAL := help
.PHONY: help check setup demo run backup restore test tested test-long unit integration lint types k8s-check images clients screenshots storm storm-images bench bench-gpu audit clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

check:
	@$(PYTHON) -I deploy/local/check_machine.py
	@mkdir -p -m 700 .lilypad "$${TMPDIR:-/tmp}" "$$HOME"

setup: $(STAMP) ## install everything into .venv

$(STAMP): requirements.txt constraints.txt tests/hub/beside/sitecustomize.py $(wildcard libs/*/pyproject.toml services/*/pyproject.toml clients/python/pyproject.toml $(PAGES)/package.json) | check
	@echo "setting up $(VENV) (a few minutes the first time)"
	@# One whose making was interrupted has no pip.
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@$(INSTALL) "pip itself" -c constraints.txt pip setuptools
	@# What is used of them is compiled when it is first used; most never is. But for what models
	@# run with: their processes may not write beside it, so that each would compile it anew.
	@$(INSTALL) "packages" --no-compile --no-build-isolation -r requirements.txt
	@for package in $(COMPILED); do \
		$(PY) -m compileall -q -j 0 -x /testing/_internal/ $(VENV)/lib/python*/site-packages/$$package || exit; done
	@# Beside the rest: docs/decisions/010 says why.
	@$(INSTALL) "torchvision" --no-compile -c constraints.txt --no-deps --upgrade \
		--target $(VENV)/beside timm torchvision
	@cp tests/hub/beside/sitecustomize.py $(VENV)/beside/
	@PATH="$(CURDIR)/$(VENV)/bin:$$PATH" npm install --prefix $(PAGES) --loglevel=error --no-audit --no-fund
	@touch $@

$(NPM_STAMP): $(SCRIPTS)/package.json clients/javascript/package.json | $(STAMP)
	@PATH="$(CURDIR)/$(VENV)/bin:$$PATH" npm install --prefix $(SCRIPTS) --loglevel=error --no-audit --no-fund
	@PATH="$(CURDIR)/$(VENV)/bin:$$PATH" npm install --prefix clients/javascript --loglevel=error --no-audit --no-fund
	@touch $@

demo: $(STAMP) ## from a model's URL to a module's answer, on this machine alone (ONCE=1: end when done)
	@$(PY) -m local.demo $(if $(filter-out 0 no,$(ONCE)),--once)

run: $(STAMP) ## serve at http://127.0.0.1:8080 (PORT and LILYPAD_HOME move it)
	@$(PY) -m local run

backup: $(STAMP) ## data and secrets of LILYPAD_HOME into a new folder (TO=folder), while it serves or not
	@$(PY) -m local backup $(TO)

restore: $(STAMP) ## a new LILYPAD_HOME of such a folder (FROM=folder)
	@$(PY) -m local restore $(FROM)

test: $(STAMP) $(NPM_STAMP) lint ## lint, types, unit and integration tests
	@# The tests wait often enough for the types to be looked at meanwhile.
	@$(MAKE) --no-print-directory -j 2 types tested

tested:
	@$(PYTEST) -m "not long"

test-long: $(STAMP) $(NPM_STAMP) ## what takes minutes: fuzzing, packages, each task's module, slow readers
	@$(PYTEST) -m long

lint: $(STAMP) ## ruff
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .

types: $(STAMP) ## mypy, strict
	@$(VENV)/bin/mypy libs/common/common libs/models/models $(SERVICES) clients/python/lilypad_client clients/breaking.py clients/generate.py deploy/local tests/hub

unit: $(STAMP) $(NPM_STAMP) ## the packages' own tests
	@$(PYTEST) libs services clients deploy tests/hub tests/documents tests/storm

integration: $(STAMP) $(NPM_STAMP) ## the whole stack with real servers
	@$(PYTEST) tests/integration

k8s-check: $(STAMP) ## the manifests: kustomize, schemas, policies, rights on the bus
	@$(PYTEST) deploy/k8s deploy/nats/tests/test_permissions.py

images: $(STAMP) ## build all images without Docker, list what is in them, start the stack from them (root; buildah, runc, mmdebstrap)
	@deploy/images/build.sh

clients: $(STAMP) $(NPM_STAMP) ## write what the clients take from the gateway: OpenAPI, types, operations
	@$(PY) -m clients.generate

screenshots: $(STAMP) $(NPM_STAMP) ## photograph every page into docs/screenshots (URL=… of a running stack)
	@$(PY) -m integration.screenshots $(URL)

storm: $(STAMP) ## five minutes of load while parts fail at random, and what held (SEED, SECONDS, STRICT=0)
	@$(PY) -m storm

storm-images: $(STAMP) ## build all images, and let the storm hit a stack of them (root; see `images`)
	@STORM=$(or $(SECONDS),300) deploy/images/build.sh

bench: $(STAMP) ## measure, and print ratios side by side
	@$(PY) -m benchmarks

bench-gpu: $(STAMP) ## the benchmarker's GPU paths, on a machine with an NVIDIA GPU
	@$(PY) -m benchmarks benchmarking_gpu

pins: $(STAMP) ## write, resolve and check what each stack of packages installs, for a release
	@$(PY) services/generator/tests/pins.py
	@for file in services/generator/generator/templates/requirements/*.txt; do \
		echo "$$file"; \
		$(PY) -m pip install -q --disable-pip-version-check --dry-run --ignore-installed \
			-c constraints.txt -r $$file || exit 1; \
	done
	@$(PY) -m pytest -q services/generator/tests/test_pins.py

audit: $(STAMP) $(NPM_STAMP) ## compare the pinned packages with published advisories
	@$(INSTALL) "pip-audit" -c constraints.txt --upgrade --target $(VENV)/audit pip-audit
	@PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(PY) -m local.audit

clean: ## forget the environment and the local data
	rm -rf $(VENV) .lilypad

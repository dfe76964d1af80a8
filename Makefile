# Every target sets up what it needs by itself, and is quick the second time.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SUPPLY_CHAIN := build/supply-chain
STAMP := $(VENV)/.locked
T ?= tests
ARGS ?=
# Much of the suite waits for real time, so that more workers than processors may be quicker on a quiet machine.
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help demo test image-check lint fmt run bench bench-renewals bench-watchers docs reliability docs-check pictures lock wheel sbom audit-dependencies clean

help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-19s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): requirements-dev.lock pyproject.toml README.md
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the locked dependencies (once) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements-dev.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable .
	@touch $@

demo: $(STAMP) ## Run the main job on real input: store, broker, agent, audit, outage
	@$(BIN)/python -m broker demo $(ARGS)

test: $(STAMP) ## Run every test (T=tests/unit narrows, ARGS=-x passes options on)
	@tests/install-servers.sh
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(T) $(ARGS)

image-check: $(STAMP) ## Build the image twice, run it, and try what it promises (root; ARGS=--pull for the real base)
	@tests/install-servers.sh image
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest -v -p no:randomly -o python_files='check_*.py' -o timeout=900 \
	  tests/image $(ARGS)

lint: $(STAMP) ## Check style, types, import contracts, dependencies and the Dockerfile
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/deptry broker
	@$(BIN)/hadolint Dockerfile

fmt: $(STAMP) ## Format the code and mend what can be mended
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .

run: $(STAMP) ## Run a broker for development, with a store and certificates of its own
	@$(BIN)/python -m broker dev $(ARGS)

bench: $(STAMP) ## Measure against bao proxy, bao agent and an empty handler, as ratios
	@$(BIN)/python benchmarks/run.py $(ARGS)

bench-renewals: $(STAMP) ## Let real leases fall due together, counted at a real store (ARGS='--leases 10000')
	@tests/install-servers.sh
	@$(BIN)/python -m benchmarks.renewals $(ARGS)

bench-watchers: $(STAMP) ## Let a crowd watch over real streams, counted at a real store (ARGS='--watchers 1000')
	@$(BIN)/python -m benchmarks.watchers $(ARGS)

docs: $(STAMP) ## Write anew what is generated: pages, and the rules for Kubernetes
	@$(BIN)/python -m broker.cli.docs docs
	@$(BIN)/python -m tests.prometheus_rule deploy/kubernetes/monitoring/prometheus-rule.yaml

reliability: $(STAMP) ## Put every fault on a real store, and write docs/reliability.md out of what was seen
	@tests/install-servers.sh
	@rm -rf build/faults
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest -q -n 2 --dist loadfile tests/faults $(ARGS)
	@$(BIN)/python -m tests.faults.page docs/reliability.md

docs-check: $(STAMP) ## Run the commands of the documentation; check its links, pictures and generated pages
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest -n 2 --dist loadfile tests/docs tests/unit/test_docs.py \
	  tests/runbooks tests/integration/test_existing_vault_page.py $(ARGS)

pictures: ## Draw docs/pictures/*.svg anew from the text beside them (needs npx, of Node.js)
	@for text in docs/pictures/*.txt; do \
	  npx --yes aasvg@0.5.2 compatible backdrop < "$$text" > "$${text%.txt}.svg" && \
	  printf '<!-- source: sha256:%s -->\n' "$$(sha256sum < "$$text" | cut -d' ' -f1)" >> "$${text%.txt}.svg" || exit 1; \
	done

lock: $(STAMP) ## Resolve the dependencies anew, with hashes and no index address
	@$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --custom-compile-command "make lock" \
	  --extra otel --extra socks -o requirements.lock pyproject.toml
	@$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --custom-compile-command "make lock" \
	  --extra otel --extra uvloop --extra socks --group dev -c requirements.lock -o requirements-dev.lock pyproject.toml
	@$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --custom-compile-command "make lock" \
	  --group build -c requirements-dev.lock -o requirements-build.lock
	@$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --custom-compile-command "make lock" \
	  --group supply-chain -c requirements-dev.lock -o requirements-supply-chain.lock

# These tools bring 50 packages that nobody else needs, so they live apart and come when they are asked for.
$(SUPPLY_CHAIN)/.locked: requirements-supply-chain.lock
	@$(PYTHON) -m venv $(SUPPLY_CHAIN)
	@echo "installing the tools of the supply chain (once) ..."
	@$(SUPPLY_CHAIN)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r $<
	@touch $@

sbom: $(SUPPLY_CHAIN)/.locked ## Write the CycloneDX bill of materials of what the image installs
	@mkdir -p dist
	@$(SUPPLY_CHAIN)/bin/cyclonedx-py requirements --output-reproducible --pyproject pyproject.toml \
	  --output-file dist/logflux-broker.cdx.json requirements.lock
	@echo "dist/logflux-broker.cdx.json"

audit-dependencies: $(SUPPLY_CHAIN)/.locked ## Ask for known vulnerabilities of the locked dependencies
	@$(SUPPLY_CHAIN)/bin/python .ci/audit_dependencies.py requirements.lock

wheel: $(STAMP) ## Build the wheel into dist/
	@$(BIN)/hatchling build -t wheel

clean: ## Remove what the targets made
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

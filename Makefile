# Everything runs from here: `make run` shows the loop, `make test` proves it.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ENGINE ?= emulated
MODEL := build/models/queueing

.PHONY: run test test-vllm check unit e2e lock crds dashboards clean

run: $(STAMP)  ## The whole loop on this machine, for three minutes and on.
ifeq ($(ENGINE),vllm)
	$(BIN)/python -m e2e.real_engine.install
	test -f $(MODEL)/config.json || build/vllm/bin/python e2e/real_engine/tiny_model.py $(MODEL) --size=queueing
endif
	$(BIN)/python -m examples.quickstart.tour --engine $(ENGINE)

test: check unit e2e  ## All tests, on a real Kubernetes API too.

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: $(STAMP)
	$(BIN)/python -m pytest tests -q

e2e: $(STAMP)
	$(BIN)/python -m e2e.harness.build
	$(BIN)/python -m pytest e2e -q -m "not vllm"

test-vllm: $(STAMP)  ## The same loop with a real vLLM on this machine's CPU.
	$(BIN)/python -m e2e.real_engine.install
	$(BIN)/python -m pytest tests e2e/real_engine -q -m vllm

$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

lock: $(STAMP)  ## Pin every dependency anew, with hashes.
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 --all-extras --group dev \
	  --upgrade --generate-hashes --no-emit-index-url --no-annotate --no-header --quiet -o requirements.lock

crds: $(STAMP)  ## Write the CRDs from the API types.
	$(BIN)/whaleflux crds crds
	$(BIN)/whaleflux crds deploy/helm/whaleflux/files/crds

dashboards: $(STAMP)  ## Write the Grafana dashboards and Prometheus rules that the chart ships.
	$(BIN)/whaleflux dashboards deploy/helm/whaleflux/files

clean:
	rm -rf build .mypy_cache .pytest_cache .ruff_cache

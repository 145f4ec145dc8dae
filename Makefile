# make demo   raw images to a registered model, on the embedded data set
# make test   the tests
# make test-faults  what clusters do to trainings, on one of several nodes in network namespaces: as root, 20 min
# make check  style, types, structure
# make native build the C++ and CUDA libraries now instead of on first use; PRODUCTS='cpu host' leaves out CUDA
# make wheel  dist/detcore-*.whl with conf, csrc and the libraries for x86-64-v3; PRODUCTS as above
# make params compose params.yaml from conf/; O='data=bccd optim.lr=0.01' sets what differs from conf/config.yaml

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export PATH := $(CURDIR)/$(BIN):$(PATH)
# DVC's and Ray's usage reports, and MLflow's, are for the user to switch on.
export DVC_NO_ANALYTICS := true
export RAY_USAGE_STATS_ENABLED := 0
export MLFLOW_DISABLE_TELEMETRY := true

.PHONY: demo test test-faults check native wheel params format clean

demo: $(READY)
	@dvc repro
	@python pipelines/register.py --params params.yaml --report

test: $(READY)
	@python -m pytest

test-faults: $(READY)
	@python -m pytest --faults tests/faults tests/integration/test_nodes.py

check: $(READY)
	@ruff check .
	@ruff format --check .
	@mypy
	@find csrc -name '*.h' -o -name '*.cpp' -o -name '*.cu' | xargs --no-run-if-empty clang-format --dry-run --Werror
	@python -m pytest tests/test_architecture.py

native: $(READY)
	@python -m detcore.toolchain $(PRODUCTS)

wheel: $(READY)
	@rm -rf build
	@python -m detcore.toolchain --wheel build/native $(PRODUCTS)
	@DETCORE_PREBUILT=build/native python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation \
	  --wheel-dir dist .
	@rm -rf build
	@ls dist/*.whl

params: $(READY)
	@python -m detcore.config params.yaml $(O)

format: $(READY)
	@ruff check --fix-only .
	@ruff format .
	@find csrc -name '*.h' -o -name '*.cpp' -o -name '*.cu' | xargs --no-run-if-empty clang-format -i

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
	  { echo "detcore needs Python 3.11, 3.12 or 3.13; say which: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "no venv module; on Debian or Ubuntu: apt install python3-venv" >&2; exit 1; }
	@echo "installing the packages of requirements.lock into $(VENV) (about 7 GB with torch)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

clean:
	rm -rf data runs mlflow.db mlruns mlartifacts

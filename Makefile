# gpufleet: `make test` sets everything up and runs every test; the rest are parts of it.

VENV   ?= .venv
PYTHON ?= python3
PY     := $(VENV)/bin/python
ARGS   ?=

.PHONY: check check-first check-rest test setup demo bench clean

# Lint, types and offline tests: no root, no network beyond installing the environment and torch.
check: $(VENV)/.torch
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	+$(MAKE) -j 2 -O --no-print-directory check-first check-rest

# The offline tests in two halves at once: pytest-xdist and gevent do not go together.
FIRST := $(wildcard tests/test_[a-k]*.py)
REST  := $(filter-out $(FIRST),$(wildcard tests/test_*.py)) tests/sim_vendor
check-first:
	$(PY) -m pytest -q -m "not fleet and not browser and not long" $(FIRST) $(ARGS)
check-rest:
	$(PY) -m pytest -q -m "not fleet and not browser and not long" $(REST) $(ARGS)

# Everything: set-up of this machine, then all tests, the simulated fleet included.
test: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(PY) -m $(if $(strip $(ARGS)),pytest $(ARGS),tests.lanes)

setup: $(VENV)/.installed
	tests/setup.sh $(PY)

# Everything once, by gpufleet's own commands, on simulated hosts; without root, or with
# INVENTORY=inventories/local.py, on this machine alone in a folder below build/.
INVENTORY ?=
demo: $(VENV)/.installed
	@$(PY) -m tests.demo $(INVENTORY)

bench: setup
	$(PY) -m tests.bench.sweep $(ARGS)
	$(PY) -m tests.bench.verify $(ARGS)

# Every trace of ours: the simulated fleet with its caches, the packages that set-up installed,
# the environment. Asks for sudo where root made the traces.
clean:
	tests/setup.sh --remove
	rm -rf $(VENV) build runs .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The training payload is checked against torch's own types, and its tests really train.
$(VENV)/.torch: $(VENV)/.installed
	tests/setup.sh --torch $(PY)
	@touch $@

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || tests/setup.sh --venv
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install -q --disable-pip-version-check -e '.[dev]'
	@touch $@

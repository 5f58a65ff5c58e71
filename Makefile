# gpufleet: `make test` sets everything up and runs every test; the rest are parts of it.

VENV   ?= .venv
PYTHON ?= python3
PY     := $(VENV)/bin/python
ARGS   ?=

.PHONY: check lint check-1 check-2 check-3 test test-real soak setup demo bench clean

# Lint, types and offline tests: no root, no network beyond installing the environment and torch.
# The tests in three parts at once, for many of them wait; pytest-xdist and gevent do not go together.
PARTS := lint check-1 check-2 check-3
check: $(VENV)/.torch
	+$(MAKE) -j 4 -O --no-print-directory $(PARTS)

lint: | $(VENV)/.installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

ALL    := $(wildcard tests/test_*.py)
PART_1 := $(wildcard tests/test_[a-d]*.py)
PART_2 := $(wildcard tests/test_[e-r]*.py)
PART_3 := $(filter-out $(PART_1) $(PART_2),$(ALL))
check-1 check-2 check-3: check-%:
	$(PY) -m pytest -q -m "not fleet and not browser and not long" $(PART_$*) $(ARGS)

# Everything: set-up of this machine, then all tests, the simulated fleet included.
test: setup lint
	$(PY) -m $(if $(strip $(ARGS)),pytest $(ARGS),tests.lanes)

# Other people's real packages on a simulated node: Debian's own driver, compiled by DKMS. Minutes,
# and some hundred megabytes from Debian's mirror; no part of `make test`.
test-real: setup
	$(PY) -m pytest -s $(if $(strip $(ARGS)),$(ARGS),tests/real/debian_driver.py)

# Every fault at the cheapest level that claims it, and healthy runs of whole fleets: most of an hour.
# Makes docs/fault-table.md, and fails when a fault was not found at its part.
soak: setup
	@mkdir -p build && rm -f build/faults.jsonl
	@export GPUFLEET_FAULT_TABLE=$(CURDIR)/build/faults.jsonl; failed=0; \
	$(PY) -m pytest tests/fleet/test_verify_faults.py || failed=1; \
	$(PY) -m pytest --soak -m soak $(if $(strip $(ARGS)),$(ARGS),tests) || failed=1; \
	$(PY) -m tests.faulted build/faults.jsonl || failed=1; exit $$failed

setup: $(VENV)/.installed
	tests/setup.sh $(PY)

# Everything once, by gpufleet's own commands, on simulated hosts; without root, or with
# INVENTORY=inventories/local.py, on this machine alone in a folder below build/.
INVENTORY ?=
demo: $(VENV)/.installed
	@$(PY) -m tests.demo $(INVENTORY)

bench: setup
	$(PY) -m tests.bench.solve
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

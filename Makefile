# Two commands do everything on a fresh machine: `make demo` and `make test`.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin

# Everything editable, in one go, so that pip sees all constraints at once. PyTorch comes first and pinned:
# without a pin pip may take a build for GPUs of several gigabytes.
HOST := -e .
PARTS := -e plugins/timestep_samplers -e plugins/losses

.PHONY: install demo test clean

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml plugins/*/pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet $(HOST) $(PARTS) -e plugins/ddim_torch --group test --group oracles
	touch $@

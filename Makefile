# Fresh machine: `make demo` trains the digits, `make test` checks everything.
# Changing something: `make quick` while you work, `make check` before you send it. CONTRIBUTING.md has the times.

PYTHON ?= python3.11

# PyTorch comes first and pinned, so that nothing installed after it chooses another build. Where pip finds the
# CPU build, that is small; the build for GPUs takes several gigabytes.
TORCH := torch==2.13.0
PROJECTS := pyproject.toml $(wildcard plugins/*/pyproject.toml)
HOST_AND_TORCH := -e . -e plugins/timestep_samplers -e plugins/losses -e plugins/ddim_torch
EVERYTHING := $(HOST_AND_TORCH) -e plugins/ddim_jittor

# Two files at a time, each with one thread, are faster than one with two; what the tests of a file share is made once.
PYTEST = OMP_NUM_THREADS=1 $(1)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
# What may differ with the releases of NumPy, SciPy, Pillow, Matplotlib, safetensors and the other dependencies:
# numbers, files, images, pages, plugins, and a real run. Texts and options do not; the main environment tests those.
VERSIONED := $(addprefix tests/,diffusion evaluation experiment framework parts plugin report run scaffold system \
    testing torch cli/test_run.py)
# diffusers needs newer releases than the oldest that are allowed.
WITHOUT_DIFFUSERS := $(addprefix --ignore=,$(wildcard tests/*/test_against_diffusers.py))
# With what they ask for, these would replace torch; without, only a process that is prepared may see them.
PEERS := --no-deps --upgrade --target .venv/peers -r tests/peers.txt

# What `make bench` measures, each in a process of its own, and which of it: `make bench BENCH="-k digits"`.
MEASURED := torch jittor diffusers denoising-diffusion-pytorch
BENCH :=

.PHONY: install demo quick check test lint style types layers docs test-newest test-lowest bench clean

install: .venv/installed

demo: install
	.venv/bin/ddim-host run --plugin torch

# The tests that start no process.
quick: install style
	$(call PYTEST,.venv) -m "not slow and not process"

# All but the slow tests, and one slow one: both frameworks train the same.
check: install lint docs
	$(call PYTEST,.venv) -m "not slow or check"

test: install lint docs test-newest test-lowest
	$(call PYTEST,.venv)

lint: style types layers

style: install
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

# With the newest NumPy, whose types are the most exact.
types: .venv-newest/installed
	.venv-newest/bin/mypy

layers: install
	.venv/bin/lint-imports

# A link to nowhere, or a reference to code that is gone, is an error.
docs: .venv-newest/installed
	.venv-newest/bin/sphinx-build -W -n --keep-going --quiet -b html docs docs/_build/html

# Both ends of the declared ranges: the newest releases of everything, and the oldest that are allowed.
test-newest: .venv-newest/installed
	$(call PYTEST,.venv-newest) -m "not slow" $(VERSIONED)

test-lowest: .venv-lowest/installed
	$(call PYTEST,.venv-lowest) -m "not slow" $(VERSIONED) $(WITHOUT_DIFFUSERS)

bench: install
	for framework in $(MEASURED); do \
	    .venv/bin/python -m pytest tests/benchmarks/bench_model.py --framework $$framework $(BENCH) \
	        --benchmark-json=.benchmarks/$$framework.json --benchmark-columns=median,min,max,rounds || exit 1; \
	done
	.venv/bin/pytest-benchmark compare --group-by=name --sort=name --columns=median,min,max,rounds \
	    $(MEASURED:%=.benchmarks/%.json)

.venv/installed: $(PROJECTS) tests/peers.txt
	$(call venv,.venv)
	.venv/bin/python -m pip install --quiet $(EVERYTHING) --group test --group oracles
	.venv/bin/python -m pip install --quiet $(PEERS)
	touch $@

.venv-newest/installed: $(PROJECTS)
	$(call venv,.venv-newest)
	.venv-newest/bin/python -m pip install --quiet $(HOST_AND_TORCH) --group test --group oracles --group docs
	touch $@

.venv-lowest/installed: $(PROJECTS) tests/lowest.txt
	$(call venv,.venv-lowest)
	.venv-lowest/bin/python -m pip install --quiet $(HOST_AND_TORCH) --group test -c tests/lowest.txt
	touch $@

define venv
	$(PYTHON) -m venv $(1)
	$(1)/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	$(1)/bin/python -m pip install --quiet $(TORCH)
endef

clean:
	rm -rf .venv .venv-newest .venv-lowest docs/_build

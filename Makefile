# Two commands do all the work on a fresh machine: `make demo` and `make test`.

PYTHON ?= python3.11

# PyTorch comes first and pinned, so that nothing installed after it chooses another build. Where pip finds the
# CPU build, that is small; the build for GPUs takes several gigabytes.
TORCH := torch==2.13.0
PROJECTS := pyproject.toml $(wildcard plugins/*/pyproject.toml)
HOST_AND_TORCH := -e . -e plugins/timestep_samplers -e plugins/losses -e plugins/ddim_torch
EVERYTHING := $(HOST_AND_TORCH) -e plugins/ddim_jittor

# Two files at a time, each with one thread, are faster than one with two; what the tests of a file share is made once.
PYTEST = OMP_NUM_THREADS=1 $(1)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
# What the tests of the other two environments leave out: what takes minutes, and what needs Jittor.
QUICK := -m "not slow" --ignore=tests/jittor
# These hold results against diffusers, which needs newer releases than the oldest that are allowed.
ORACLES := $(addprefix --ignore=tests/,parts/test_noise_schedules.py diffusion/test_oracle_scheduler.py framework/test_unet.py)
# With what they ask for, these would replace torch; without, only a process that is prepared may see them.
PEERS := --no-deps --upgrade --target .venv/peers -r tests/peers.txt

# What `make bench` measures, each in a process of its own, and which of it: `make bench BENCH="-k digits"`.
MEASURED := torch jittor diffusers denoising-diffusion-pytorch
BENCH :=

.PHONY: install demo test lint docs test-newest test-lowest bench clean

install: .venv/installed

demo: install
	.venv/bin/ddim-host run --plugin torch

test: lint docs test-newest test-lowest install
	$(call PYTEST,.venv)

lint: .venv-newest/installed
	.venv-newest/bin/ruff check .
	.venv-newest/bin/ruff format --check .
	.venv-newest/bin/mypy
	.venv-newest/bin/lint-imports

# A link to nowhere, or a reference to code that is gone, is an error.
docs: .venv-newest/installed
	.venv-newest/bin/sphinx-build -W -n --keep-going --quiet -b html docs docs/_build/html

# Both ends of the declared ranges: the newest releases of everything, and the oldest that are allowed.
test-newest: .venv-newest/installed
	$(call PYTEST,.venv-newest) $(QUICK)

test-lowest: .venv-lowest/installed
	$(call PYTEST,.venv-lowest) $(QUICK) $(ORACLES)

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

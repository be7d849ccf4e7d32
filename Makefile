# Fresh machine: `make demo` trains the digits with PyTorch, `make install` sets up both frameworks.
# Changing something: `make quick` while you work, `make check` before you send it. CONTRIBUTING.md has the times.

# The Pythons that are tested, the newest first; `python3` may be newer still. Of each list the first one
# that the machine has is taken; PYTHON=... names another one.
PYTHONS := python3.13 python3.12 python3.11 python3
# Of `make install`. A CI that must not download another build of PyTorch for GPUs names Pythons that have one for CPUs.
INSTALL_PYTHONS := $(PYTHONS)
BETWEEN := python3.12
# The oldest releases have no wheels for Python 3.13.
OLDEST_PYTHONS := python3.11 python3.12

# PyTorch comes first and pinned, so that nothing installed after it chooses another build. Where pip finds the
# CPU build, that is small; the build for GPUs takes several gigabytes.
TORCH := torch==2.13.0
# Both ends of what is allowed; a CI that must not download two builds for GPUs sets one of them to TORCH.
TORCH_NEWEST := $(TORCH)
TORCH_LOWEST := torch==2.6.0
PROJECTS := pyproject.toml $(wildcard plugins/*/pyproject.toml)
HOST := -e . -e plugins/timestep_samplers -e plugins/losses -e plugins/tensorboard
HOST_AND_TORCH := $(HOST) -e plugins/ddim_torch
# Without what they ask for: pip does not know that the plugin makes Jittor work with NumPy 2.
JITTOR := --no-deps -e plugins/ddim_jittor jittor==1.3.11.0 onednn-devel-cpu-gomp==2022.2.1 onednn-cpu-gomp==2022.2.1
# Beside both frameworks. CI has NumPy 1 here, and the newest in the environment of the newest releases.
NUMPY := numpy

# Two files at a time, each with one thread, are faster than one with two; what the tests of a file share is made once.
PYTEST = OMP_NUM_THREADS=1 $(1)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
# Another Python, or other releases, get the quick tests but those of Jittor, and real runs in processes of their own.
QUICK := -m "not slow and not process"
IN_OTHERS := $(QUICK) --ignore=tests/jittor
REAL_RUNS := -m "process and not slow" tests/cli/test_run.py
# diffusers needs newer releases than the oldest that are allowed.
WITHOUT_DIFFUSERS := $(addprefix --ignore=,$(wildcard tests/*/test_*against_diffusers.py))
# What imports PyTorch; without it one more Python costs little.
WITHOUT_TORCH := $(WITHOUT_DIFFUSERS) $(addprefix --ignore=tests/,torch end_to_end evaluation/test_peers.py \
    framework/test_unet.py parts/test_contracts.py parts/test_losses.py plugin/test_validation.py testing/test_kit.py)
# With what they ask for, these would replace torch; without, only a process that is prepared may see them.
PEERS := --no-deps --upgrade --target .venv/peers -r tests/peers.txt

# What `make bench` measures, each in a process of its own, and which of it: `make bench BENCH="-k digits"`.
MEASURED := torch jittor diffusers denoising-diffusion-pytorch
BENCH :=

.PHONY: install demo quick check test lint style types layers docs test-newest test-lowest test-between dist gpu-check gpu-bundle bench clean

install: .venv/installed

demo: .venv-demo/installed
	.venv-demo/bin/ddim-host run

# The tests that start no process.
quick: install style
	$(call PYTEST,.venv) $(QUICK)

# All but the slow tests, and one slow one: both frameworks train the same.
check: install lint docs
	$(call PYTEST,.venv) -m "not slow or check"

test: install lint docs test-newest test-lowest test-between dist
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
	$(call PYTEST,.venv-newest) $(QUICK)
	$(call PYTEST,.venv-newest) $(REAL_RUNS)
	$(call PYTEST,.venv-newest) tests/end_to_end/test_parity.py

test-lowest: .venv-lowest/installed
	$(call PYTEST,.venv-lowest) $(IN_OTHERS) $(WITHOUT_DIFFUSERS)
	$(call PYTEST,.venv-lowest) $(REAL_RUNS)

# The Pythons between both ends, as far as this machine has them.
test-between:
	for python in $(BETWEEN); do \
	    if $$python -c "" 2>/dev/null; then $(MAKE) .venv-$$python/tested || exit 1; \
	    else echo "$$python is not installed: not tested"; fi; \
	done

.venv-python%/tested: .venv-python%/installed
	$(call PYTEST,$(@D)) $(IN_OTHERS) $(WITHOUT_TORCH)

# What would be uploaded: built, checked, installed outside of this folder, and used there.
dist: install
	rm -rf dist
	.venv/bin/python -m tests.wheels dist "$(TORCH)"

# On a machine with a GPU: is it right, and how fast. One without a network takes what `gpu-bundle` made along, and
# installs it beside its PyTorch: python -m pip install --no-index --no-deps gpu-bundle/*.whl
gpu-check: install
	.venv/bin/python -m tests.gpu gpu-check

GPU_PYTHON := 3.12
gpu-bundle: install
	rm -rf gpu-bundle
	.venv/bin/python -m pip wheel --quiet --no-deps --wheel-dir gpu-bundle . $(wildcard plugins/*) jittor==1.3.11.0
	.venv/bin/python -m pip download --quiet --no-deps --only-binary=:all: --python-version $(GPU_PYTHON) \
	    --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
	    --platform manylinux1_x86_64 --dest gpu-bundle -r tests/gpu/bundle.txt

bench: install
	for framework in $(MEASURED); do \
	    .venv/bin/python -m pytest tests/benchmarks/bench_model.py --framework $$framework $(BENCH) \
	        --benchmark-json=.benchmarks/$$framework.json --benchmark-columns=median,min,max,rounds || exit 1; \
	done
	.venv/bin/pytest-benchmark compare --group-by=name --sort=name --columns=median,min,max,rounds \
	    $(MEASURED:%=.benchmarks/%.json)

.venv/installed: $(PROJECTS) tests/peers.txt
	$(call venv,$(@D),install,$(INSTALL_PYTHONS),$(TORCH))
	.venv/bin/python -m pip install --quiet $(HOST_AND_TORCH) "$(NUMPY)" \
	    --group test --group oracles --group dist --group triton --group notebook --group trackers
	.venv/bin/python -m pip install --quiet $(JITTOR)
	.venv/bin/python -m pip install --quiet $(PEERS)
	touch $@

.venv-demo/installed: $(PROJECTS)
	$(call venv,$(@D),demo,$(PYTHONS),$(TORCH))
	$(@D)/bin/python -m pip install --quiet $(HOST_AND_TORCH)
	touch $@

.venv-newest/installed: $(PROJECTS)
	$(call venv,$(@D),demo,$(PYTHONS),$(TORCH_NEWEST))
	$(@D)/bin/python -m pip install --quiet $(HOST_AND_TORCH) --group test --group oracles --group docs --group triton
	$(@D)/bin/python -m pip install --quiet $(JITTOR)
	touch $@

.venv-lowest/installed: $(PROJECTS) tests/lowest.txt
	$(call venv,$(@D),demo,$(OLDEST_PYTHONS),$(TORCH_LOWEST) -c tests/lowest.txt)
	$(@D)/bin/python -m pip install --quiet $(HOST_AND_TORCH) --group test -c tests/lowest.txt
	touch $@

.PRECIOUS: .venv-python%/installed
# Tests of the command line look at the plugin of PyTorch, but import nothing of it.
.venv-python%/installed: $(PROJECTS)
	$(call venv,$(@D),demo,python$*,)
	$(@D)/bin/python -m pip install --quiet $(HOST) --group test
	$(@D)/bin/python -m pip install --quiet --no-deps -e plugins/ddim_torch
	touch $@

# folder, what for, Pythons, and what to install first
define venv
	python=$$(sh tools/find-python.sh $(2) $(if $(PYTHON),$(PYTHON),$(3))) && \
	    { [ -x $(1)/bin/pip ] || $$python -m venv $(1); }
	$(1)/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	$(if $(4),$(1)/bin/python -m pip install --quiet $(4))
endef

clean:
	rm -rf .venv .venv-* dist docs/_build gpu-bundle gpu-check

# Fresh machine: `make demo` trains the digits with PyTorch, `make install` sets up both frameworks.
# For changes: `make quick` while you work, `make check` before you send them. CONTRIBUTING.md lists the times.

# The tested Pythons, newest first; `python3` may be newer still. The first of a list that the machine has is used;
# PYTHON=... chooses another for `make install` and `make demo`.
PYTHONS := python3.13 python3.12 python3.11 python3
# For `make install`. A CI that must not download another GPU build of PyTorch lists Pythons that have a CPU build.
INSTALL_PYTHONS := $(PYTHONS)
BETWEEN := python3.12
# The oldest releases have no wheels for Python 3.13.
OLDEST_PYTHONS := python3.11 python3.12

# PyTorch is installed first and pinned, so that nothing installed later chooses another build. PyPI has the GPU build for
# Linux, which takes several gigabytes. For the small CPU build:
# make demo TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"
TORCH := torch==2.13.0
# Both ends of the allowed range; a CI that must not download two GPU builds sets one of them to TORCH.
TORCH_NEWEST := $(TORCH)
TORCH_LOWEST := torch==2.6.0
PROJECTS := pyproject.toml $(wildcard plugins/*/pyproject.toml)
HOST := -e . -e plugins/timestep_samplers -e plugins/losses -e plugins/tensorboard
HOST_AND_TORCH := $(HOST) -e plugins/ddim_torch
# Without dependencies: pip does not know that the plugin makes Jittor work with NumPy 2.
JITTOR := --no-deps -e plugins/ddim_jittor jittor==1.3.11.0 onednn-devel-cpu-gomp==2022.2.1 onednn-cpu-gomp==2022.2.1
# For the environment with both frameworks. CI has NumPy 1 here, and the newest in the environment of the newest releases.
NUMPY := numpy

# Two files at a time with one thread each are faster than one with two; fixtures shared by a file are created once.
PYTEST = OMP_NUM_THREADS=1 $(1)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
# Other Pythons and releases get the quick tests except those of Jittor, and in separate processes real runs and
# completion in shells: argcomplete replaces methods of argparse.
QUICK := -m "not slow and not process"
IN_OTHERS := $(QUICK) --ignore=tests/jittor
REAL_RUNS := -m "process and not slow" tests/cli/test_run.py tests/cli/test_completion.py
# diffusers needs newer releases than the oldest allowed ones.
WITHOUT_DIFFUSERS := $(addprefix --ignore=,$(wildcard tests/*/test_*against_diffusers.py))
# Tests that import PyTorch; without it, testing one more Python costs little.
WITHOUT_TORCH := $(WITHOUT_DIFFUSERS) $(addprefix --ignore=tests/,torch end_to_end evaluation/test_peers.py \
    framework/test_unet.py parts/test_contracts.py parts/test_losses.py plugin/test_validation.py testing/test_kit.py)
# With their dependencies, these would replace torch; without, only a process prepared for them can import them.
PEERS := --no-deps --upgrade --target .venv/peers -r tests/peers.txt

# `make bench` measures each of these in its own process; `make bench BENCH="-k digits"` selects benchmarks.
MEASURED := torch jittor diffusers denoising-diffusion-pytorch
BENCH :=

.PHONY: install demo quick check test lint style types layers docs test-newest test-lowest test-between wheels dist gpu-check gpu-bundle bench \
    clean clean-demo clean-install .venv/same-python .venv-demo/same-python

install: .venv/installed

demo: .venv-demo/installed
	.venv-demo/bin/ddim-host run

# Style, and the tests that start no process.
quick: install style
	$(call PYTEST,.venv) $(QUICK)

# All tests except the slow ones, and one slow test: both frameworks train the same.
check: install lint docs
	$(call PYTEST,.venv) -m "not slow or check"

test: install lint docs test-newest test-lowest test-between dist
	$(call PYTEST,.venv)

lint: style types layers

style: install
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

# With the newest NumPy, which has the most precise types.
types: .venv-newest/installed
	.venv-newest/bin/mypy

layers: install
	.venv/bin/lint-imports

# A broken link or a reference to missing code is an error.
docs: .venv-newest/installed
	.venv-newest/bin/sphinx-build -W -n --keep-going --quiet -b html docs docs/_build/html

# Both ends of the declared ranges: the newest releases of all dependencies, and the oldest allowed ones.
test-newest: .venv-newest/installed
	$(call PYTEST,.venv-newest) $(QUICK)
	$(call PYTEST,.venv-newest) $(REAL_RUNS)
	$(call PYTEST,.venv-newest) tests/end_to_end/test_parity.py

test-lowest: .venv-lowest/installed
	$(call PYTEST,.venv-lowest) $(IN_OTHERS) $(WITHOUT_DIFFUSERS)
	$(call PYTEST,.venv-lowest) $(REAL_RUNS)

# The Pythons between both ends, if this machine has them.
test-between:
	for python in $(BETWEEN); do \
	    if $$python -c "" 2>/dev/null; then $(MAKE) .venv-$$python/tested || exit 1; \
	    else echo "$$python is not installed: not tested"; fi; \
	done

.venv-python%/tested: .venv-python%/installed
	$(call PYTEST,$(@D)) $(IN_OTHERS) $(WITHOUT_TORCH)

# Wheels and source archives, without installing a framework.
wheels: .venv-build/installed
	rm -rf dist
	for project in $(dir $(PROJECTS)); do \
	    $(<D)/bin/python -m build --no-isolation --outdir dist $$project || exit 1; \
	done

# The archives for upload: built, checked, installed outside this folder, and used there.
dist: wheels install
	.venv/bin/python -m tests.wheels dist "$(TORCH)"

# Correctness and speed on a GPU. A machine without a network needs the output of `gpu-bundle`, installed beside its
# PyTorch: python -m pip install --no-index --no-deps gpu-bundle/*.whl
# Do not use --target, which omits shared libraries that wheels put outside site-packages, such as oneDNN's.
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

.venv/installed: $(PROJECTS) tests/peers.txt | .venv/same-python
	$(call venv,$(@D),install,$(or $(PYTHON),$(INSTALL_PYTHONS)),$(TORCH))
	@echo "installing Jittor and the packages that the tests need"
	.venv/bin/python -m pip install --quiet $(HOST_AND_TORCH) "$(NUMPY)" \
	    --group test --group oracles --group build --group dist --group triton --group notebook --group trackers
	.venv/bin/python -m pip install --quiet $(JITTOR)
	.venv/bin/python -m pip install --quiet $(PEERS)
	touch $@

.venv-demo/installed: $(PROJECTS) | .venv-demo/same-python
	$(call venv,$(@D),demo,$(or $(PYTHON),$(PYTHONS)),$(TORCH))
	@echo "installing ddim-host"
	$(@D)/bin/python -m pip install --quiet $(HOST_AND_TORCH)
	touch $@

# Not files: checked at every call.
.venv/same-python:
	@sh tools/same-python.sh install $(@D) $(PYTHON)

.venv-demo/same-python:
	@sh tools/same-python.sh demo $(@D) $(PYTHON)

.venv-build/installed: pyproject.toml
	$(call venv,$(@D),demo,$(PYTHONS),)
	$(@D)/bin/python -m pip install --quiet --group build
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
# Tests of the command line need the PyTorch plugin installed, but do not import it.
.venv-python%/installed: $(PROJECTS)
	$(call venv,$(@D),demo,python$*,)
	$(@D)/bin/python -m pip install --quiet $(HOST) --group test
	$(@D)/bin/python -m pip install --quiet --no-deps -e plugins/ddim_torch
	touch $@

SIZES := installing PyTorch takes a minute or two on a fast network, and 1.3 GB of disk (CPU build) or 5.8 GB (GPU build)
# Arguments: folder, purpose, Pythons, and the requirements to install first, PyTorch: pip shows what it downloads.
define venv
	python=$$(sh tools/find-python.sh $(2) $(3)) && \
	    { [ -x $(1)/bin/pip ] || $$python -m venv $(1); }
	$(1)/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	$(if $(4),@echo "$(1): $(SIZES)")
	$(if $(4),$(1)/bin/python -m pip install $(4))
endef

# One environment, to create it with another Python or another build of PyTorch.
clean-demo:
	rm -rf .venv-demo

clean-install:
	rm -rf .venv

clean:
	rm -rf .venv .venv-* dist docs/_build gpu-bundle gpu-check

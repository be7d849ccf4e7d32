"""The guide to ports: its files pass the contract with a complete network and fail with a faulty one."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

from tests.support.documentation import files_of, translation_of
from tests.support.repository import ROOT

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.slow,
    pytest.mark.process,
    pytest.mark.skipif(find_spec("jittor") is None, reason="Jittor is not installed"),
]

PAGE = ROOT / "docs" / "jittor-reproduction.md"
PORT = "ddim-port"
NETWORK = (ROOT / "tests" / "support" / "ported_unet.py").read_text(encoding="utf-8")
MISTAKES = {
    "attention projects its input": ('to_out.0", nn.bmm(scores, v))', 'to_out.0", pixels)'),
    "padding on all sides": ("[0, 1, 0, 1]", "[1, 0, 1, 0]"),
    "epsilon of another framework": ("1e-6", "1e-2"),
    "cosines first": ("[angles.sin(), angles.cos()]", "[angles.cos(), angles.sin()]"),
}


def follow(page: Path, folder: Path) -> None:
    """Write exactly the files of the guide, and install them as it says, but into the folder `site`."""
    for name, text in files_of(page).items():
        path = folder / PORT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    install = f"{sys.executable} -m pip install --quiet --no-deps --target site ./{PORT}"
    subprocess.run(install.split(), cwd=folder, check=True)


def run_in(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python with the port of this folder."""
    modules = os.pathsep.join([str(folder / "site"), *filter(None, sys.path)])
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": modules},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=1800.0,
    )


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("port")
    follow(PAGE, folder)
    return folder


def run_contract(folder: Path, network: str) -> subprocess.CompletedProcess[str]:
    """Run the tests of the guide with this network."""
    (folder / "site" / "ddim_port" / "network.py").write_text(network, encoding="utf-8")
    # The tests must pass under the strictest settings, which a clone of this repository has as well.
    return run_in(folder, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", PORT)


@pytest.mark.parametrize("page", [PAGE, translation_of(PAGE)], ids=lambda page: page.name)
def test_files_of_the_guide_can_be_installed_and_are_found(page: Path, tmp_path: Path) -> None:
    follow(page, tmp_path)
    done = run_in(tmp_path, "-m", "ddim_host", "run", "--plugin", f"{PORT}/jittor", "--dry-run")
    assert done.returncode == 0, done.stdout
    assert PORT in done.stdout


def test_complete_port_passes(port: Path) -> None:
    done = run_contract(port, NETWORK)
    assert done.returncode == 0, done.stdout
    assert "15 passed" in done.stdout


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_in_the_network_fails(mistake: str, port: Path) -> None:
    right, wrong = MISTAKES[mistake]
    assert right in NETWORK
    done = run_contract(port, NETWORK.replace(right, wrong))
    assert done.returncode == 1, done.stdout
    assert f"FAILED {PORT}/tests/test_port.py::TestPort::test_predictions_match_the_reference" in done.stdout

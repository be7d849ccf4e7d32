"""More than twenty kinds of broken plugins, installed by pip as wheels in a separate environment.

Commands that do not need them work; a command that uses one gets an error that states the cause.
"""

from __future__ import annotations

import base64
import hashlib
import json
import site
import subprocess
import venv
import zipfile
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.broken_plugins import BROKEN

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

LOSS = """
@hookimpl
def ddim_losses():
    return {{'{name}': loss}}
def loss(prediction, target{more}):
    {body}
"""


def loss(name: str, body: str, more: str = "") -> str:
    return LOSS.format(name=name, body=body, more=more)


# Plugins that load but have broken parts: their source and the expected error.
BROKEN_IN_USE = {
    "raises-in-use": (loss("raising", "raise ValueError('no idea')"), "it raised ValueError: no idea"),
    "exits-in-use": (loss("exiting", "import sys; sys.exit(3)"), "it raised SystemExit: 3"),
    "reduces": (loss("reducing", "return ((prediction - target) ** 2).mean()"), "one number per image"),
    "returns-none": (loss("nothing", "return None"), "one number per image"),
    "three-arguments": (loss("lonely", "return target", more=", third"), "make it keyword-only"),
    "untyped": (
        loss("untyped", "return target", more=", *, power=2"),
        "has no annotation; write `power: int`",
    ),
    "odd-type": (
        loss("odd", "return target", more=", *, power: set = None"),
        "the type of its parameter 'power' must be",
    ),
    "ghost-type": (
        loss("ghost", "return target", more=", *, power: 'Ghost' = 1"),
        "cannot resolve the types",
    ),
}


def wheel(folder: Path, distribution: str, source: str, version: str = "1.0", requires: str = "") -> Path:
    """Build a wheel with one module and one entry point of the same name."""
    module = distribution.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
    files = {
        f"{module}.py": f"from ddim_host import hookimpl\n{source}\n",
        f"{info}/METADATA": metadata + (f"Requires-Dist: {requires}\n" if requires else ""),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[ddim_host.plugins]\n{distribution} = {module}\n",
    }
    record = ""
    path = folder / f"{module}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            data = text.encode("utf-8")
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            record += f"{name},sha256={digest},{len(data)}\n"
            archive.writestr(name, data)
        archive.writestr(f"{info}/RECORD", record + f"{info}/RECORD,,\n")
    return path


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the Python of an environment with the packages of this one and the zoo."""
    folder = tmp_path_factory.mktemp("zoo")
    wheels = [wheel(folder, name, source) for name, (source, _) in (BROKEN | BROKEN_IN_USE).items()]
    wheels.append(wheel(folder, "modern", "", requires="ddim-host>=99"))
    wheels.append(wheel(folder, "other-losses", loss("mse", "return None")))
    assert len(wheels) > 30
    environment = folder / "environment"
    venv.create(environment, with_pip=True)
    [packages] = environment.glob("lib/python*/site-packages")
    others = "; ".join(f"site.addsitedir({path!r})" for path in site.getsitepackages())
    (packages / "others.pth").write_text(f"import site; {others}\n", encoding="utf-8")
    python = environment / "bin" / "python"
    options = ["--quiet", "--no-deps", "--no-index", "--disable-pip-version-check"]
    subprocess.run([python, "-m", "pip", "install", *options, *wheels], check=True)
    return python


def call(zoo: Path, environment: dict[str, str], *arguments: str | Path) -> tuple[int, str, str]:
    done = subprocess.run(
        [zoo, "-P", "-m", "ddim_host", *arguments],
        env=environment,
        cwd=zoo.parent,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    return done.returncode, done.stdout, done.stderr


def test_all_broken_plugins_are_listed(zoo: Path, environment: dict[str, str]) -> None:
    code, out, err = call(zoo, environment, "plugins", "--json")
    assert code == 0, err
    rows: dict[str, dict[str, Any]] = {row["distribution"]: row for row in json.loads(out)}
    for name, (_, message) in BROKEN.items():
        assert rows[name]["status"] == "error"
        assert message in rows[name]["error"] or name == "imports-from-jax"  # JAX is not installed here
    assert "it needs ddim-host>=99" in rows["modern"]["error"]
    code, out, err = call(zoo, environment, "plugins")
    assert code == 0, err
    assert "  untyped  (broken: its parameter 'power' has no annotation; write `power: int`" in out


def test_commands_work_without_using_broken_plugins(
    zoo: Path, environment: dict[str, str], tiny: list[str], tmp_path: Path
) -> None:
    assert call(zoo, environment, "--help")[0] == 0
    path = tmp_path / "run"
    code, _, err = call(zoo, environment, *tiny, "--out", path)
    assert code == 0, err
    assert call(zoo, environment, "sample", path, "--num-images", "2")[0] == 0
    assert call(zoo, environment, "evaluate", path, "--samples", "10", "--steps", "2", "--eta", "0")[0] == 0
    assert call(zoo, environment, "compare", path, "--out", tmp_path / "page.html")[0] == 0


@pytest.mark.parametrize("name", BROKEN_IN_USE)
def test_using_a_broken_part_is_an_error_with_its_cause(
    zoo: Path, environment: dict[str, str], name: str
) -> None:
    source, message = BROKEN_IN_USE[name]
    part = source.partition("'")[2].partition("'")[0]
    code, _, err = call(zoo, environment, "run", "--plugin", "torch", "--loss", part, "--dry-run")
    assert (code, "Traceback" in err) == (2, False), err
    assert f"{name} 1.0 does not work" in err
    assert message in err


def test_doctor_checks_all_plugins(zoo: Path, environment: dict[str, str]) -> None:
    code, out, err = call(zoo, environment, "doctor")
    assert code == 1, err
    assert "FAIL  plugin raises 1.0 (raises)" in out
    assert "Traceback" not in out + err

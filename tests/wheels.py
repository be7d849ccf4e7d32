"""Check the contents of the built distributions, and use them in a fresh environment.

    python -m tests.wheels FOLDER TORCH

Args:
        FOLDER: Folder with the wheels and source archives of `make wheels`.
        TORCH: Arguments of pip to install first, so that nothing later chooses another build.

Needs `twine`, and a package index for the rest. The exit code is 1 if anything fails.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

from tests.support.documentation import TINY
from tests.support.repository import ROOT

PROJECTS = (ROOT, *sorted(path.parent for path in (ROOT / "plugins").glob("*/pyproject.toml")))

_UNWANTED = re.compile(r"(^|/)(tests?|docs|tools)/|\.so$|\.pyc$|(^|/)test_")


def main() -> int:
    """Run all steps; stop at the first failure."""
    folder, torch = Path(sys.argv[1]).absolute(), sys.argv[2]
    archives = sorted([*folder.glob("*.whl"), *folder.glob("*.tar.gz")])
    run(sys.executable, "-m", "twine", "check", "--strict", *archives)
    problems = [problem for archive in archives for problem in wrong_in(archive)]
    if len(archives) != 2 * len(PROJECTS):
        problems.append(f"there are {len(archives)} archives of {len(PROJECTS)} projects")
    if problems:
        print(*problems, sep="\n", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="ddim-host-wheels-") as scratch:
        use(folder, Path(scratch), torch)
    return 0


def wrong_in(archive: Path) -> list[str]:
    """Describe missing and unwanted files in a wheel or a source archive."""
    names = names_in(archive)
    package = package_of(archive)
    [project] = (path for path in PROJECTS if (path / package).is_dir())
    sources = [path for path in (project / package).rglob("*") if path.is_file() and path.suffix != ".pyc"]
    wanted = ["LICENSE", *(path.relative_to(project).as_posix() for path in sources)]
    if package == "ddim_host" and archive.suffix == ".whl":
        wanted += ["ddim_host/scaffold/ddim_numpy/pyproject.toml"]
    missing = [name for name in wanted if not any(f"/{found}".endswith(f"/{name}") for found in names)]
    # The example that `new-plugin --kind framework` copies has its own tests.
    unwanted = [name for name in names if _UNWANTED.search(name) and "ddim_numpy/" not in name]
    return [f"{archive.name} lacks {name}" for name in missing] + [
        f"{archive.name} contains {name}" for name in unwanted
    ]


def names_in(archive: Path) -> list[str]:
    """Return the files in an archive; for a source archive, without its top folder."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return wheel.namelist()
    with tarfile.open(archive) as source:
        return [member.name.partition("/")[2] for member in source if member.isfile()]


def package_of(archive: Path) -> str:
    """Return the package of a distribution, which has the distribution's name."""
    return archive.name.partition("-")[0]


def wheel_of(package: str, folder: Path) -> Path:
    """Return the only wheel of a package."""
    [path] = folder.glob(f"{package}-*.whl")
    return path


def use(folder: Path, scratch: Path, torch: str) -> None:
    """Install the wheels outside the clone, train, and train with a new plugin."""
    environment = scratch / "environment"
    venv.create(environment, with_pip=True)
    python, work = environment / "bin" / "python", scratch / "work"
    work.mkdir()
    pip = (python, "-m", "pip", "--quiet", "--disable-pip-version-check")
    run(*pip, "install", *torch.split())
    # Files, not names: a package index may have a newer distribution of the same name.
    parts = [wheel_of(package, folder) for package in ("ddim_losses", "ddim_timestep_samplers")]
    host = wheel_of("ddim_host", folder)
    run(*pip, "install", f"{host}[torch]", wheel_of("ddim_torch", folder), *parts, cwd=work)
    run(python, "-m", "ddim_host", "run", *TINY.split(), "--out", "run", cwd=work)
    run(python, "-m", "ddim_host", "new-plugin", "mine", "--kind", "loss", cwd=work)
    run(*pip, "install", "-e", "./ddim-mine[test]", cwd=work)
    run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=work / "ddim-mine")
    run(python, "-m", "ddim_host", "run", *TINY.split(), "--loss", "mine", "--out", "mine", cwd=work)
    run(python, "-m", "ddim_host", "doctor", cwd=work)
    if sys.version_info < (3, 13):  # Jittor requires NumPy 1, which has no wheels for later Pythons
        jittor = wheel_of("ddim_jittor", folder)
        run(*pip, "install", "--dry-run", f"{host}[jittor]", jittor, *parts, cwd=work)


def run(*command: str | Path, cwd: Path = ROOT) -> None:
    """Run a command that cannot import from this clone; on failure, exit with its name."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    print("$", *command, flush=True)
    done = subprocess.run([*map(str, command)], cwd=cwd, env=variables, check=False)
    if done.returncode != 0:
        raise SystemExit(f"failed with exit code {done.returncode}: {' '.join(map(str, command))}")


if __name__ == "__main__":
    raise SystemExit(main())

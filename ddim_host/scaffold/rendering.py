"""Render a new distribution from a name and a kind."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined

from ddim_host import __version__
from ddim_host.errors import UserError
from ddim_host.plugin.registry import Kind
from ddim_host.scaffold.conflicts import require_new
from ddim_host.system.files import file_errors

if TYPE_CHECKING:
    from ddim_host.scaffold.names import NewPlugin

_CONTRACTS = {
    Kind.NOISE_SCHEDULE: "NoiseScheduleContract",
    Kind.TIMESTEP_SAMPLER: "TimestepSamplerContract",
    Kind.LOSS: "LossContract",
    Kind.LOSS_WEIGHTING: "LossWeightingContract",
    Kind.TIMESTEP_SUBSET: "TimestepSubsetContract",
    Kind.SOLVER: "SolverContract",
    Kind.SEARCH: "SubsetSearchContract",
    Kind.DATA: "DatasetContract",
    Kind.FEATURES: "FeatureExtractorContract",
    Kind.OBSERVER: "ObserverContract",
}


def write_plugin(plugin: NewPlugin, folder: Path) -> list[Path]:
    """Write all files of a new distribution, or none.

    Args:
        plugin: The plugin's names.
        folder: The folder to create; it must not exist.

    Returns:
        The paths of the files.

    Raises:
        UserError: The folder exists or cannot be written; or one of the names is already used.
    """
    files = _framework(plugin) if plugin.kind is Kind.MODEL else _part(plugin)
    files[".gitignore"] = _environment().get_template("gitignore.jinja").render()
    require_new(plugin, files)
    partial = folder.with_name(f".{uuid.uuid4().hex}.partial")
    try:
        with file_errors(f"cannot write {folder}"):
            if folder.exists() or folder.is_symlink():
                raise UserError(f"{folder} already exists", fix="choose another --out, or another name")
            for name, text in files.items():
                path = partial / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
            partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return [folder / name for name in files]


def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("ddim_host.scaffold"),
        undefined=StrictUndefined,
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _part(plugin: NewPlugin) -> dict[str, str]:
    """Render a distribution with one part from the templates."""
    environment = _environment()
    own = plugin.kind.value.removeprefix("ddim_")
    templates = {
        "pyproject.toml": "pyproject.toml.jinja",
        "README.md": "README.md.jinja",
        f"{plugin.package}/__init__.py": f"{own}.py.jinja",
        f"tests/test_{plugin.part}.py": "test.py.jinja",
    }
    variables = {"plugin": plugin, "host": __version__, "contract": _CONTRACTS[plugin.kind]}
    texts = {name: environment.get_template(file).render(variables) for name, file in templates.items()}
    return {**texts, f"{plugin.package}/py.typed": ""}


def _framework(plugin: NewPlugin) -> dict[str, str]:
    """Render a distribution with a framework: the NumPy example with other names."""
    example = _framework_example()
    names = {
        "ddim_numpy": plugin.package,
        "ddim-numpy": plugin.distribution,
        'numpy = "': f'{plugin.part} = "',
        "--plugin numpy": f"--plugin {plugin.part}",
        "NumpyModel": f"{plugin.class_name}Model",
        "NumpyLayers": f"{plugin.class_name}Layers",
        "TestNumpy": f"Test{plugin.class_name}",
    }

    def renamed(text: str) -> str:
        for old, new in names.items():
            text = text.replace(old, new)
        return text

    files = [path for pattern in ("*.toml", "*.md", "*/*.py", "*/py.typed") for path in example.glob(pattern)]
    return {
        renamed(path.relative_to(example).as_posix()): renamed(path.read_text(encoding="utf-8"))
        for path in files
    }


def _framework_example() -> Path:
    """Return the folder of the example: inside the wheel, or in the repository of an editable install."""
    package = Path(__file__).parent / "ddim_numpy"
    return package if package.exists() else Path(__file__).parents[2] / "examples" / "ddim_numpy"

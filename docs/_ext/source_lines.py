"""Line numbers of references such as `ddim_host/diffusion/ddim.py::ddim_step`."""

from __future__ import annotations

import ast
from pathlib import Path

__all__ = ["ROOT", "line_of"]

ROOT = Path(__file__).parents[2]


def line_of(reference: str) -> int:
    """Return the line of a reference; 1 for a reference to a whole file.

    Raises:
        ValueError: The file does not exist, or it does not define the name.
    """
    name, _, qualified = reference.partition("::")
    path = ROOT / name
    if not path.is_file():
        raise ValueError(f"there is no file {name}")
    line, body = 1, ast.parse(path.read_text(encoding="utf-8")).body if qualified else []
    for part in filter(None, qualified.split(".")):
        found = next((node for node in body if part in _defined_by(node)), None)
        if found is None:
            raise ValueError(f"{name} defines no {qualified}")
        line, body = found.lineno, getattr(found, "body", [])
    return line


def _defined_by(node: ast.stmt) -> set[str]:
    match node:
        case ast.FunctionDef() | ast.ClassDef():
            return {node.name}
        case ast.Assign():
            return {target.id for target in node.targets if isinstance(target, ast.Name)}
        case ast.AnnAssign(target=ast.Name(id=name)):
            return {name}
    return set()

"""Tab completions, requested by the scripts that `ddim-host completion` prints."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, get_type_hints

from argcomplete.completers import BaseCompleter
from argcomplete.finders import CompletionFinder

from ddim_host.errors import UserError
from ddim_host.experiment.defaults import DEFAULT_PARTS, default_model_parameters
from ddim_host.experiment.settings import SETTINGS
from ddim_host.plugin.parameters import REQUIRED, Parameter, written
from ddim_host.plugin.registry import Kind

if TYPE_CHECKING:
    import argparse
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from ddim_host.plugin.loading import Plugins

_KINDS = {kind.flag: kind for kind in Kind} | {"--evaluate-features": Kind.FEATURES}
_RUNS = ("run", "runs", "start_from")
"""Arguments whose values are run directories."""

_DEPTH, _MOST_FOLDERS = 3, 1000
"""Limits of the search for run directories: depth, and number of folders searched per level."""


def complete(parser: argparse.ArgumentParser) -> NoReturn:
    """Answer a shell's request for completions, and exit.

    The request is in environment variables, and the answer is written to file descriptor 8; see argcomplete.
    """
    _Finder()(parser, default_completer=_Values())
    raise AssertionError("argcomplete exits")


def values(command: str, action: argparse.Action, prefix: str) -> Iterable[str]:
    """Return candidate values of an argument; some may not begin with `prefix`.

    Args:
        command: The command, such as `run`.
        action: The argument.
        prefix: The part of the value typed so far.
    """
    kind = next((_KINDS[option] for option in action.option_strings if option in _KINDS), None)
    if kind is not None:
        return _parts(kind, prefix)
    return _choices(command, action) or _locations(action, prefix)


def _choices(command: str, action: argparse.Action) -> Collection[str]:
    """Return all values of an argument that has only a few, otherwise nothing."""
    if action.dest == "plugin":
        from ddim_host.plugin.discovery import installed_frameworks  # noqa: PLC0415 - slow to import

        return installed_frameworks()
    if (command, action.dest) == ("plugins", "name"):
        return _names()
    if "|" in str(action.metavar):  # for example true|false
        return str(action.metavar).split("|")
    return SETTINGS[action.dest].choices if action.dest in SETTINGS else ()


def _locations(action: argparse.Action, prefix: str) -> Iterable[str]:
    """Return runs, files or folders if the argument is a path, otherwise nothing."""
    if action.dest in _RUNS:
        return list(_runs(prefix)) or _paths(prefix, folders_only=True)
    return _paths(prefix) if action.type is Path or action.dest == "source" else ()


class _Values(BaseCompleter):
    """Completer for arguments without fixed choices."""

    def __call__(
        self, *, prefix: str, action: argparse.Action, parser: argparse.ArgumentParser, **_: object
    ) -> Iterable[str]:
        return values(parser.prog.rpartition(" ")[2], action, prefix)


class _Finder(CompletionFinder):
    """Finder that offers options only if there are no values to offer, or a dash was typed."""

    def filter_completions(self, completions: list[str]) -> list[str]:
        offered: list[str] = super().filter_completions(completions)
        return [word for word in offered if not word.startswith("-")] or offered


def _parts(kind: Kind, prefix: str) -> Iterator[str]:
    """Yield the parts of a kind or, after a colon, the parameters of a part."""
    parts = _signatures(kind)
    head, colon, tail = prefix.partition(":")
    if not colon:
        found = {name: parameters for name, parameters in parts.items() if name.startswith(prefix)}
        for name, parameters in found.items():
            is_complete = all(parameter.default is not REQUIRED for parameter in parameters)
            if is_complete:
                yield name
            # The only matching name may be complete, or parameters may follow. With both offered, the shell
            # adds no space.
            if not is_complete or (parameters and len(found) == 1):
                yield f"{name}:"
        return
    *given, last = tail.split(",")
    start = prefix.removesuffix(last)
    name, equals, value = last.partition("=")
    for parameter in parts.get(head, ()):
        key = written(parameter.name)
        if not equals and not any(text.startswith(f"{key}=") for text in given):
            yield f"{start}{key}="
        elif equals and key == name:
            yield from (f"{start}{key}={text}" for text in _parameter_values(parameter.annotation, value))


def _signatures(kind: Kind) -> dict[str, Sequence[Parameter]]:
    """Return the parameters of each part of a kind; ambiguous names include their distribution."""
    if kind is Kind.MODEL:  # built by frameworks, which completion does not load
        from ddim_host.framework.unet import UNetSpec  # noqa: PLC0415 - imports NumPy

        types = get_type_hints(UNetSpec)
        own = [Parameter(name, types[name], value) for name, value in default_model_parameters(8).items()]
        return {DEFAULT_PARTS[kind]: own}
    parts = _loaded().registry.of_kind(kind)
    names = [part.name for part in parts]
    signatures: dict[str, Sequence[Parameter]] = {}
    for part in parts:
        name = part.name if names.count(part.name) == 1 else f"{part.distribution}/{part.name}"
        try:
            signatures[name] = part.parameters()
        except UserError:
            continue  # the part cannot be used
    return signatures


def _parameter_values(annotation: Any, prefix: str) -> Iterable[str]:
    if annotation is bool:
        return ("true", "false")
    return _paths(prefix) if annotation in (Path, Path | None) else ()


def _loaded() -> Plugins:
    from ddim_host.plugin.loading import load_plugins  # noqa: PLC0415 - imports NumPy, and plugins

    return load_plugins(strict=False)


def _names() -> set[str]:
    """Return all names that `ddim-host plugins NAME` accepts."""
    loaded = _loaded()
    plugins = {name for plugin in loaded.installed for name in (plugin.name, plugin.distribution)}
    return (
        plugins
        | {part.name for kind in Kind for part in loaded.registry.of_kind(kind)}
        | {DEFAULT_PARTS[Kind.MODEL]}
    )


def _runs(prefix: str) -> Iterator[str]:
    """Yield run directories at most three levels below the typed folder."""
    typed, begun = _split(prefix)
    folders = [name for name in _entries(typed, folders_only=True) if name.startswith(begun)]
    for _ in range(_DEPTH):
        inner = []
        for name in folders[:_MOST_FOLDERS]:
            if Path(f"{typed}{name}/config.toml").expanduser().is_file():
                yield typed + name
            else:
                inner += [f"{name}/{entry}" for entry in _entries(f"{typed}{name}", folders_only=True)]
        folders = inner


def _paths(prefix: str, *, folders_only: bool = False) -> Iterator[str]:
    """Yield files and folders; folders end in a slash, so that completion continues inside."""
    typed, begun = _split(prefix)
    for name in _entries(typed, folders_only=folders_only, hidden=begun.startswith(".")):
        path = typed + name
        yield f"{path}/" if Path(path).expanduser().is_dir() else path


def _split(prefix: str) -> tuple[str, str]:
    """Split a partly typed path into its folder, with the slash, and the start of a name."""
    end = prefix.rfind("/") + 1
    return prefix[:end], prefix[end:]


def _entries(folder: str, *, folders_only: bool, hidden: bool = False) -> list[str]:
    try:
        with os.scandir(Path(folder or ".").expanduser()) as entries:
            return sorted(
                entry.name
                for entry in entries
                if (hidden or not entry.name.startswith(".")) and (not folders_only or entry.is_dir())
            )
    except (OSError, RuntimeError):  # RuntimeError: `~user` of an unknown user
        return []

"""Plugins, each broken in a different way."""

from __future__ import annotations

HOOK = "@hookimpl\ndef ddim_losses():\n    return "

BROKEN = {
    "imports-torch": ("import torch", "cannot be imported here"),
    "imports-jittor": ("import jittor", "cannot be imported here"),
    "imports-from-jax": ("from jax.numpy import abs", "cannot be imported here"),
    "imports-in-hook": ("@hookimpl\ndef ddim_losses():\n    import torch", "cannot be imported here"),
    "imports-missing": ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
    "syntax-error": ("def", "SyntaxError: invalid syntax (syntax_error.py:2)"),
    "raises": ("raise RuntimeError('first line\\nsecond line')", "RuntimeError: first line (raises.py:2)"),
    "exits": ("import sys; sys.exit('good bye')", "SystemExit: good bye"),
    "misspelt-hook": (
        "@hookimpl\ndef ddim_loses():\n    return {}",
        "there is no hook 'ddim_loses' in ddim-host 0.1.0; did you mean 'ddim_losses'?",
    ),
    "wrong-signature": (
        "@hookimpl\ndef ddim_losses(config):\n    return {}",
        "ValueError: ddim_losses(config): hooks take no arguments in ddim-host 0.1.0",
    ),
    "no-hooks": ("", "it implements no hook; is @hookimpl missing?"),
    "no-hookimpl": ("def ddim_losses():\n    return {}", "it implements no hook; is @hookimpl missing?"),
    "hook-raises": ("@hookimpl\ndef ddim_losses():\n    return {}['x']", "KeyError: 'x' (hook_raises.py:4)"),
    "hook-exits": ("@hookimpl\ndef ddim_losses():\n    raise SystemExit", "SystemExit"),
    "gives-a-network": (
        "@hookimpl\ndef ddim_model_factories():\n    return {'unet': abs}",
        "the hook ddim_model_factories is only for plugins in the entry-point group 'ddim_host.fra",
    ),
    "checks-machine": ("@hookimpl\ndef ddim_machine_checks():\n    return []", "is only for plugins in"),
    "returns-list": (HOOK + "[abs]", "ddim_losses returned a list, not a dict of parts"),
    "not-callable": (HOOK + "{'three': 3}", "ddim_losses: 'three' must be callable, but its type is int"),
    "name-with-space": (HOOK + "{'a b': abs}", "ddim_losses: 'a b' is not a valid part name"),
    "name-with-colon": (HOOK + "{'a:b': abs}", "ddim_losses: 'a:b' is not a valid part name"),
    "name-with-slash": (HOOK + "{'a/b': abs}", "ddim_losses: 'a/b' is not a valid part name"),
    "name-empty": (HOOK + "{'': abs}", "ddim_losses: '' is not a valid part name"),
    "name-no-text": (HOOK + "{1: abs}", "ddim_losses: 1 is not a valid part name"),
}
"""Distribution name -> source of its module, and a part of its error."""

"""Compile Jittor's core in a process of its own; `environment` runs this file as a script.

Jittor compiles its core while it is imported. Done in a child process, that cannot print into the user's
terminal, end the user's process with `sys.exit`, take its Ctrl-C away or leave workers behind. This file
imports nothing but the standard library before Jittor, so that it also runs where the project is not on the
path.

The parent holds the other end of this process's standard input. When the parent goes away, however it does,
the pipe closes and this process ends itself with all the workers and compilers it started: as orphans they
would hold Jittor's lock for ever.
"""

import importlib
import os
import platform
import signal
import sys
import sysconfig
import threading
from types import ModuleType

ASK_AGAIN = 75
"""Exit code of this script when Jittor asks to be started once more."""


def import_jittor_utils() -> ModuleType:
    """Import the part of Jittor that decides where the compiled files lie, and decide it well.

    The environment variables must be set before. Two things are settled here that Jittor gets wrong:

    - It files its cache under the host's name and the kernel's version, so that a new container, or a kernel
      update, would compile everything again. What matters (the C library, the machine) stays in the key.
    - It asks some `python3.11-config` for the headers: the one of another Python, or none where this one came
      from conda, uv or pyenv. The running interpreter knows its own.

    Returns:
        The module `jittor_utils`.
    """
    real_node, real_platform = platform.node, platform.platform
    name = "-".join((platform.system(), platform.machine(), *platform.libc_ver()))
    platform.node = lambda: ""
    platform.platform = lambda *_args, **_kwargs: name
    try:
        jittor_utils = importlib.import_module("jittor_utils")
    finally:
        platform.node, platform.platform = real_node, real_platform
    folders = dict.fromkeys((sysconfig.get_path("include"), sysconfig.get_path("platinclude")))
    settings = vars(jittor_utils)
    settings["_py3_include_path"] = " ".join(f'-I"{folder}"' for folder in folders)
    settings["_py3_extension_suffix"] = sysconfig.get_config_var("EXT_SUFFIX")
    return jittor_utils


def _end_with_parent() -> None:
    os.read(0, 1)
    os.killpg(0, signal.SIGKILL)


def main() -> None:
    """Import Jittor with an empty cache, reporting every compiled file on standard output."""
    report = os.dup(1)
    os.dup2(2, 1)  # whatever Jittor and the compiler print goes to the log, which is standard error
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.path[:0] = sys.argv[1:]  # the folder with a patched copy of Jittor
    jittor_utils = import_jittor_utils()

    class Progress:
        def __init__(self, message: str, total: int) -> None:
            self.message, self.total = message, total

        def update(self, index: int) -> None:
            os.write(report, f"{self.message}\t{index + 1}\t{self.total}\n".encode())

    vars(jittor_utils)["DelayProgress"] = Progress
    try:
        importlib.import_module("jittor")
    except SystemExit:
        # "jit_utils updated, please rerun your command": an update of Jittor in place.
        sys.exit(ASK_AGAIN)


if __name__ == "__main__":
    main()

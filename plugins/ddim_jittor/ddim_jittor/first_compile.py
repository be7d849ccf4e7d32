"""Compile Jittor's core in a separate process; `compiling` runs this file as a script.

Jittor compiles its core during import. In a child process, the import cannot print to the user's terminal,
exit the user's process with `sys.exit`, replace its Ctrl-C handler or leave workers behind. Before Jittor,
this file imports only the standard library, so it runs even if the project is not on the path.

The parent holds the other end of this process's standard input. When the parent dies for any reason, the pipe
closes and this process kills itself with all its workers and compilers: as orphans they would hold Jittor's
lock forever.
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
"""Exit code of this script if Jittor asks to be restarted."""


def import_jittor_utils() -> ModuleType:
    """Import the part of Jittor that chooses the folder for compiled files, and correct two of its choices.

    The environment variables must already be set. The corrections are:

    - Jittor's cache key contains the host name and the kernel version, so a new container or a kernel update
      would compile everything again. Only the relevant parts (the C library and the machine) remain.
    - Jittor asks the first `python3.11-config` it finds for the headers. That program may belong to another
      Python, or be missing if this Python came from conda, uv or pyenv. The running interpreter's own headers
      are used instead.

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
    os.dup2(2, 1)  # output of Jittor and the compiler goes to the log, which is standard error
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
        # "jit_utils updated, please rerun your command": Jittor was updated in place.
        sys.exit(ASK_AGAIN)


if __name__ == "__main__":
    main()

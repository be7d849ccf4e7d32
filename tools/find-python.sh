#!/bin/sh
# Print the first of the given Pythons that can create an environment, or one message about what is missing.
#
#     sh tools/find-python.sh demo|install PYTHON...
#
# PyTorch runs without a C++ compiler, at half the speed on a CPU, so `demo` only prints a note if there is none.
# `install` also sets up Jittor, which compiles against the headers of Python.
set -u
purpose=$1
shift

probe='
import os, sys, sysconfig
version = "%d.%d" % sys.version_info[:2]
if sys.version_info < (3, 11):
    sys.exit("it is Python %s, and 3.11 or newer is needed" % version)
try:
    import ensurepip, venv
except ImportError:
    sys.exit("it cannot create environments (Debian: apt-get install python%s-venv)" % version)
header = os.path.join(sysconfig.get_path("include"), "Python.h")
if sys.argv[1] == "install" and not os.path.isfile(header):
    sys.exit("there is no %s, which Jittor compiles against (Debian: apt-get install python%s-dev)" % (header, version))
'

found= problems=
for python in "$@"; do
    if ! command -v "$python" >/dev/null; then
        problem="not installed"
    elif ! problem=$("$python" -c "$probe" "$purpose" 2>&1); then
        problem=$(printf '%s\n' "$problem" | head -n 1)
    else
        found=$python
        break
    fi
    problems="$problems
  $python: ${problem:-it does not run}"
done

# Jittor reads the compiler from `cc_path`.
if [ "$purpose" = demo ]; then variable=CXX wanted=${CXX:-g++}; else variable=cc_path wanted=${cc_path:-g++}; fi
missing=
command -v "${wanted%% *}" >/dev/null || missing="there is no C++ compiler $wanted (Debian: apt-get install g++)"

if [ -n "$found" ] && { [ -z "$missing" ] || [ "$purpose" = demo ]; }; then
    [ -z "$missing" ] || echo "note: $missing; training takes twice as long" >&2
    echo "$found"
    exit 0
fi
{
    echo "error: ddim-host cannot be installed on this machine"
    [ -n "$found" ] || echo "  why: no usable Python was found; tried:$problems"
    [ -z "$missing" ] || echo "  why: $missing"
    [ -n "$found" ] || echo "  fix: install one of these, or choose another one: make $purpose PYTHON=/path/to/python3"
    [ -z "$missing" ] || echo "  fix: install the compiler, or choose another one: export $variable=/path/to/g++"
    [ "$purpose" = demo ] || echo "  fix: PyTorch alone needs neither headers nor a compiler: make demo"
} >&2
exit 1

#!/bin/sh
# Print the first of the named Pythons that can make an environment, or say in one message what is missing.
#
#     sh tools/find-python.sh demo|install PYTHON...
#
# PyTorch runs without a C++ compiler, at half the speed on a CPU, so `demo` only notes that there is none.
# `install` is for Jittor, too, which compiles against the headers of Python.
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
    sys.exit("it cannot make environments (Debian: apt-get install python%s-venv)" % version)
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

# Jittor's own variable for another compiler is `cc_path`.
if [ "$purpose" = demo ]; then variable=CXX wanted=${CXX:-g++}; else variable=cc_path wanted=${cc_path:-g++}; fi
missing=
command -v "${wanted%% *}" >/dev/null || missing="there is no C++ compiler $wanted (Debian: apt-get install g++)"

if [ -n "$found" ] && { [ -z "$missing" ] || [ "$purpose" = demo ]; }; then
    [ -z "$missing" ] || echo "note: $missing; training takes twice as long" >&2
    echo "$found"
    exit 0
fi
{
    echo "error: ddim-host cannot be installed on this machine as it is"
    [ -n "$found" ] || echo "  why: it has no Python that can be used; looked for:$problems"
    [ -z "$missing" ] || echo "  why: $missing"
    [ -n "$found" ] || echo "  fix: install one of these, or name another one: make $purpose PYTHON=/path/to/python3"
    [ -z "$missing" ] || echo "  fix: install the compiler, or name it: export $variable=/path/to/g++"
    [ "$purpose" = demo ] || echo "  fix: PyTorch alone needs neither headers nor a compiler: make demo"
} >&2
exit 1

#!/bin/sh
# Stop if an environment was created with another Python than the chosen one, which pip and make would ignore.
#
#     sh tools/same-python.sh PURPOSE ENVIRONMENT [PYTHON]
#
# PURPOSE is the end of the target that removes the environment: `make clean-PURPOSE`.
set -u
purpose=$1 environment=$2 chosen=${3:-}
[ -n "$chosen" ] && [ -x "$environment/bin/python" ] || exit 0

# An interpreter and the environments made with it have the same base.
identity='import os, sys; print("Python %d.%d.%d in" % sys.version_info[:3], os.path.realpath(sys.base_prefix))'
wanted=$("$chosen" -c "$identity") || wanted="a Python that does not run"
found=$("$environment/bin/python" -c "$identity") || found="a broken Python"
[ "$wanted" != "$found" ] || exit 0
{
    echo "error: $environment already exists with another Python than $chosen"
    echo "  why: it has $found; $chosen is $wanted"
    echo "  fix: remove it first with \`make clean-$purpose\`, or leave out PYTHON=$chosen"
} >&2
exit 1

#!/bin/sh
# Makes the virtual environment of the checks once, in the user's cache folder, and again
# when requirements.txt changes. Prints the path of its Python.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
name=$(cksum < "$here/requirements.txt" | cut -d' ' -f1)
environment=${XDG_CACHE_HOME:-$HOME/.cache}/opengpu/checks-$name
if [ ! -e "$environment/complete" ]; then
    rm -rf "$environment"
    "$python" -m venv "$environment" >&2 || {
        echo "The checks need Python 3.10 or newer with venv (Debian: apt install python3-venv)." >&2
        exit 1
    }
    "$environment/bin/pip" install --quiet --disable-pip-version-check -r "$here/requirements.txt" >&2
    touch "$environment/complete"
fi
echo "$environment/bin/python"

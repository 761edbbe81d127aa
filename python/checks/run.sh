#!/bin/sh
# Compares the trainer with torch and transformers. Makes its own virtual environment once,
# in the user's cache folder, and uses it again while requirements.txt stays the same.
#
#   python/checks/run.sh              compare
#   python/checks/run.sh --golden     compare, and write the golden files of the Rust tests
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
python=${PYTHON:-python3}
name=$(cksum < "$here/requirements.txt" | cut -d' ' -f1)
environment=${XDG_CACHE_HOME:-$HOME/.cache}/opengpu/checks-$name
if [ ! -e "$environment/complete" ]; then
    rm -rf "$environment"
    "$python" -m venv "$environment" || {
        echo "python/checks/run.sh needs Python 3.10 or newer with venv (Debian: apt install python3-venv)." >&2
        exit 1
    }
    "$environment/bin/pip" install --quiet --disable-pip-version-check -r "$here/requirements.txt"
    touch "$environment/complete"
fi
cd "$root"
cargo build --release --quiet --workspace --example probe
target=${CARGO_TARGET_DIR:-target}
exec "$environment/bin/python" "$here/compare_transformers.py" "$target/release/examples/probe" "$@"

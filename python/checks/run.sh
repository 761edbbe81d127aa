#!/bin/sh
# Compares the trainer with torch and transformers.
#
#   python/checks/run.sh              compare
#   python/checks/run.sh --golden     compare, and write the golden files of the Rust tests
set -eu
here=$(cd "$(dirname "$0")" && pwd)
python=$(sh "$here/environment.sh")
cd "$here/../.."
cargo build --release --quiet --workspace --example probe
target=${CARGO_TARGET_DIR:-target}
exec "$python" "$here/compare_transformers.py" "$target/release/examples/probe" "$@"

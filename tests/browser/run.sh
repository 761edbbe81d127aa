#!/usr/bin/env bash
# Looks at the live page of a run through a real browser.
#
#   tests/browser/run.sh                            starts `opengpu up` itself, in a home of its own
#   tests/browser/run.sh http://127.0.0.1:8470      looks at a coordinator that is running
#
# OPENGPU_SHOTS=FOLDER keeps pictures of the page there. Exit code 0: all checks passed; 1: one
# failed; 2: something it needs is missing.
set -euo pipefail

# A path that was given relative to the caller's folder stays what the caller meant.
shots=${OPENGPU_SHOTS:-}
case "$shots" in '' | /*) ;; *) shots=$PWD/$shots ;; esac
root=$(cd "$(dirname "$0")/../.." && pwd)
target=${CARGO_TARGET_DIR:-target}
case "$target" in /*) ;; *) target=$root/$target ;; esac
cd "$root/tests/browser"

missing() {
  echo "tests/browser: $1" >&2
  exit 2
}

browser=${CHROMIUM:-}
if [ -z "$browser" ]; then
  for name in chromium chromium-browser google-chrome; do
    browser=$(command -v "$name") && break
  done
fi
[ -x "$browser" ] || missing 'no Chromium here; install it with `apt-get install -y chromium`, or set CHROMIUM to its path'
command -v npm >/dev/null || missing 'no npm here; install it with `apt-get install -y nodejs npm` (Node.js 18 or newer)'

# Installed once, and again when the lock file changes.
if ! cmp -s package-lock.json node_modules/.installed-lock; then
  npm ci --no-audit --no-fund --loglevel=error
  cp package-lock.json node_modules/.installed-lock
fi

if [ $# -gt 0 ]; then
  OPENGPU_URL=$1 OPENGPU_SHOTS=$shots CHROMIUM=$browser exec node live-page.mjs
fi

program=$target/release/opengpu
[ -x "$program" ] || missing "no $program; build it with \`cargo build --release\`"

home=$(mktemp -d)
"$program" up --home "$home/home" --listen 127.0.0.1:0 --nodes 2 --preset pico --rounds 2000 >"$home/log" 2>&1 &
up=$!
stop() {
  # As Ctrl-C does; it stops its children, and is waited for so that the home can go.
  kill -INT "$up" 2>/dev/null || true
  for _ in $(seq 100); do
    kill -0 "$up" 2>/dev/null || break
    sleep 0.2
  done
  kill -KILL "$up" 2>/dev/null || true
  rm -rf "$home"
}
trap stop EXIT

address=
for _ in $(seq 300); do
  address=$(grep -o -m 1 'http://127\.0\.0\.1:[0-9]*' "$home/log" || true)
  [ -n "$address" ] && break
  kill -0 "$up" 2>/dev/null || break
  sleep 0.2
done
if [ -z "$address" ]; then
  echo 'tests/browser: opengpu up told no address; it said:' >&2
  cat "$home/log" >&2
  exit 1
fi

if ! OPENGPU_URL=$address OPENGPU_SHOTS=$shots CHROMIUM=$browser node live-page.mjs; then
  echo 'opengpu up said last:' >&2
  tail -n 30 "$home/log" >&2
  exit 1
fi

#!/usr/bin/env bash
# Fuzzes what the network can reach, with libFuzzer and stable Rust.
#
#   fuzz/run.sh [SECONDS] [TARGET…]     tries the committed inputs, then new ones, for so many
#                                       seconds a target (default 5, all targets)
#   fuzz/run.sh repeat TARGET FILE…     tries these inputs again, one by one
#   fuzz/run.sh keep [TARGET…]          makes the committed inputs anew: the fewest of them and
#                                       of those found here that reach all that they reach
#   fuzz/run.sh list                    names the targets
#   fuzz/run.sh lint                    clippy, as in CI
#
# A target is a file in fuzz/src/bin, which says what its inputs are; fuzz/corpus has its
# committed inputs, one a line. What is found stays in the build folder and is where the next
# run begins. An input that fails is kept in a file there, whose path is printed.
# SEED=N makes libFuzzer draw the same numbers again; it prints those it drew.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
CARGO_TARGET_DIR=$(realpath -m "${CARGO_TARGET_DIR:-$here/../target}")/fuzz
export CARGO_TARGET_DIR
cd "$here"

# The fuzzer's flags for the compiler are in .cargo/config.toml, which these would hide.
unset RUSTFLAGS CARGO_ENCODED_RUSTFLAGS CARGO_BUILD_TARGET
state=$CARGO_TARGET_DIR/state
programs=$CARGO_TARGET_DIR/$(rustc -vV | sed -n 's/^host: //p')/release

# Longest input, seconds and MiB of memory for one. What is longer than 8 KiB is more of the same.
limits=(-max_len=8192 -timeout=10 -rss_limit_mb=1024)

# For a target that reads files; in memory where there is such a place, a disk is slow.
TMPDIR=$(mktemp -d -p "$([ -w /dev/shm ] && echo /dev/shm || echo "${TMPDIR:-/tmp}")" opengpu-fuzz.XXXXXX)
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT

list() { for file in src/bin/*.rs; do basename "$file" .rs; done; }

# What is fuzzed has the versions that ship; Cargo adds what only the fuzzer needs.
lock() { [ Cargo.lock -nt ../Cargo.lock ] || cp ../Cargo.lock Cargo.lock; }

build() {
  echo 'fuzz: building (the first time compiles the dependencies, for 3 to 4 minutes on two cores)'
  lock
  cargo build --release --bins
}

# The targets that were named, or all.
chosen() {
  [ $# -gt 0 ] || set -- $(list)
  for target in "$@"; do
    [ -f "src/bin/$target.rs" ] || { echo "fuzz: no target '$target'; there are $(list | xargs)" >&2; return 2; }
    echo "$target"
  done
}

# Puts a target's committed and first inputs into files.
unpack() {
  rm -rf "$state/$1/given"
  mkdir -p "$state/$1"/{given,found,failed}
  local lines=corpus/$1.txt
  [ -f "$lines" ] || lines=/dev/null
  local log=$state/$1/unpacked
  FUZZ_UNPACK=$state/$1/given "$programs/$1" <"$lines" >"$log" 2>&1 || {
    grep -av '^INFO' "$log" >&2
    echo "fuzz: $1 has no first inputs" >&2
    return 1
  }
}

fuzz() {
  local target=$1 seconds=$2 folder=$state/$1 log=$state/$1/log
  unpack "$target" || return 1
  if ! "$programs/$target" "${limits[@]}" -max_total_time="$seconds" \
    -print_final_stats=1 -seed="${SEED:-0}" -artifact_prefix="$folder/failed/" \
    "$folder/found" "$folder/given" >"$log" 2>&1; then
    grep -avE '^(#[0-9]|INFO|WARNING)' "$log" >&2 || true
    grep -a 'INFO: Seed' "$log" >&2 || true
    local input
    input=$(sed -n 's/.*Test unit written to //p' "$log" | tail -n 1)
    echo "fuzz: $target failed on ${input:-an input that was not kept; all it said is in $log}" >&2
    [ -z "$input" ] || echo "fuzz: again with: fuzz/run.sh repeat $target $input" >&2
    return 1
  fi
  local said
  said=$(grep -aP '\tDONE ' "$log" | tail -n 1)
  number() { sed -n "s/.*$1:* *\([0-9]*\).*/\1/p" | tail -n 1; }
  printf '%-16s %9d runs %8d/s %6d edges of %-6d %5d inputs %4d new %5d MiB\n' "$target" \
    "$(number stat::number_of_executed_units <"$log")" "$(number stat::average_exec_per_sec <"$log")" \
    "$(number 'cov' <<<"$said")" "$(sed -n 's/.*inline 8-bit counters): \([0-9]*\).*/\1/p' "$log")" \
    "$(number 'corp' <<<"$said")" "$(number stat::new_units_added <"$log")" \
    "$(number stat::peak_rss_mb <"$log")"
}

case ${1:-} in
  -h | --help | help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "run.sh" ;;
  list) list ;;
  lint)
    lock
    cargo clippy --release --lib --bins -- -D warnings
    ;;
  repeat)
    [ $# -ge 3 ] || { echo 'fuzz: repeat TARGET FILE…' >&2; exit 2; }
    target=$(chosen "$2")
    build
    cd "$OLDPWD" # Where the files are named from.
    "$programs/$target" "${limits[@]}" "${@:3}"
    ;;
  keep)
    targets=$(chosen "${@:2}")
    build
    mkdir -p corpus
    for target in $targets; do
      unpack "$target"
      folder=$state/$target
      rm -rf "$folder/kept"
      mkdir "$folder/kept"
      # What the target's own first inputs reach need not be kept.
      cp "$folder"/given/seed-* "$folder/kept"
      "$programs/$target" "${limits[@]}" -set_cover_merge=1 -use_counters=0 \
        -artifact_prefix="$folder/failed/" "$folder/kept" "$folder/given" "$folder/found" >"$folder/log" 2>&1
      rm "$folder"/kept/seed-*
      # Long ones are most of the bytes, and reach little that the short ones don't: without those
      # of more than 800 bytes, messages are half as many bytes and reach 19 of 20 edges.
      find "$folder/kept" -type f -size +800c -delete
      FUZZ_PACK=$folder/kept "$programs/$target" >"corpus/$target.txt" 2>/dev/null
      printf '%-16s %5d inputs %8d bytes\n' "$target" "$(wc -l <"corpus/$target.txt")" "$(wc -c <"corpus/$target.txt")"
    done
    ;;
  *)
    seconds=5
    if [[ ${1:-} =~ ^[0-9]+$ ]]; then
      seconds=$1
      shift
    fi
    targets=$(chosen "$@")
    build
    failed=()
    for target in $targets; do
      fuzz "$target" "$seconds" || failed+=("$target")
    done
    if [ ${#failed[@]} -gt 0 ]; then
      echo "fuzz: failed: ${failed[*]}" >&2
      exit 1
    fi
    ;;
esac

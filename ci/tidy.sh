#!/usr/bin/env bash
# House checks, with what is wrong and where: links between pages, the length of files, macros
# that belong in nobody's commit, dependencies that tests would build again. Prints every
# finding; exit code 1 if there is one.
#
#   ci/tidy.sh            the tracked and the new files of this clone
set -euo pipefail
cd "$(dirname "$0")/.."

HARD_LIMIT=600
findings=$(mktemp)
trap 'rm -f "$findings"' EXIT
found() { printf '%s\n' "$1" >>"$findings"; }

# Files of these kinds that git knows or would take: never what was built or installed.
files() { git ls-files --cached --others --exclude-standard -- "$@" | sort -u; }

# ---- Links between pages lead somewhere ----

# Headings of a page as GitHub makes anchors of them.
anchors() {
  awk '/^ *(```|~~~)/ { fenced = !fenced; next } !fenced && /^#+ / { sub(/^#+ +/, ""); print }' "$1" |
    tr '[:upper:]' '[:lower:]' | sed -E 's/`//g; s/\[([^]]*)\]\([^)]*\)/\1/g; s/[^[:alnum:] _-]//g; s/ /-/g'
}

# `LINE TARGET` for each link and picture outside code.
links() {
  awk '
    /^ *(```|~~~)/ { fenced = !fenced; next }
    fenced { next }
    {
      text = $0
      gsub(/`[^`]*`/, "", text)
      while (match(text, /\]\([^)]*\)/)) {
        print FNR, substr(text, RSTART + 2, RLENGTH - 3)
        text = substr(text, RSTART + RLENGTH)
      }
      if (match(text, /^\[[^]]+\]: *[^ ]+/)) {
        target = substr(text, RSTART, RLENGTH)
        sub(/^\[[^]]+\]: */, "", target)
        print FNR, target
      }
    }' "$1"
}

while IFS= read -r page; do
  [ -f "$page" ] || continue
  while read -r line target; do
    target=${target%% \"*}
    target=${target#<}
    target=${target%>}
    case $target in '' | *://* | mailto:*) continue ;; esac
    path=${target%%#*}
    case $path in
      '') file=$page ;;
      /*) file=.$path ;;
      *) file=$(dirname "$page")/$path ;;
    esac
    if ! [ -e "$file" ]; then
      found "$page:$line: the link to $target leads nowhere"
    elif [[ $target == *'#'* && $file == *.md ]] && ! anchors "$file" | grep -qxF -- "${target#*#}"; then
      found "$page:$line: $path has no heading for #${target#*#}"
    fi
  done < <(links "$page")
done < <(files '*.md')

# ---- Rust files are short and finished ----

while IFS= read -r file; do
  [ -f "$file" ] || continue
  lines=$(wc -l <"$file")
  if [ "$lines" -gt "$HARD_LIMIT" ]; then
    found "$file: $lines lines; a file has at most $HARD_LIMIT, and past 500 it is usually two"
  fi
  # Not in comments: a comment may speak of them.
  while IFS= read -r hit; do
    found "$file:$hit"
  done < <(grep -nE '\b(todo|unimplemented|dbg)!' "$file" | grep -vE '^[0-9]+:[[:space:]]*//' || true)
done < <(files '*.rs')

# ---- Tests compile no dependency a second time ----

# What is built, with its features: `cargo run` compiles the first list, `cargo test` the
# second, which may have more crates but not other features of the same ones.
crates() {
  cargo tree --workspace --locked -e "$1" -f '{p} [{f}]' --prefix none |
    sed -E 's/ \((\*|proc-macro)\)//g' | sort -u
}
run=$(crates normal,build)
tested=$(crates normal,build,dev)
while IFS= read -r crate; do
  found "Cargo.toml: tests build $crate with other features, and so a second time"
done < <(comm -23 <(printf '%s\n' "$run") <(printf '%s\n' "$tested"))

if [ -s "$findings" ]; then
  cat "$findings"
  echo "tidy: $(wc -l <"$findings") findings"
  exit 1
fi
echo 'tidy: nothing found'

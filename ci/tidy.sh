#!/usr/bin/env bash
# House checks, with what is wrong and where: links between pages, the length of files, macros
# that belong in nobody's commit, refusals that no page explains, dependencies that tests would
# build again. Prints every finding; exit code 1 if there is one.
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

# ---- Each refusal is explained, and no explanation is left over ----

# A volunteer looks a code up in this page: one that is missing leaves nothing to go by, one that
# is gone misleads. Codes are found where they are written, as literals; tests are left out.
EXPLAINED=docs/rejected.md
API=crates/coordinator/src/api

# A source without its tests and comments, in one line.
source_of() {
  for source in "$@"; do
    [ -f "$source" ] || continue
    sed '/^#\[cfg(test)\]/,$d' "$source" | grep -vE '^[[:space:]]*//'
  done | tr -s '[:space:]' ' '
}

# Codes that are given where something is refused.
refused_in() {
  source_of "$@" |
    { grep -oE '(\brefuse|\bfailed|\bundecided|::(bad_request|unauthorised|forbidden|not_found|conflict|unacceptable|unavailable))\( ?"[a-z_]+"|StatusCode::[A-Z_]+, "[a-z_]+"|const [A-Z_]+: &str = "[a-z_]+"|EnrolError::[A-Za-z]+( \{ \.\. \})? => "[a-z_]+"' || true; } |
    grep -oE '"[a-z_]+"' | tr -d '"' | sort -u
}

# Codes that a method `code` answers with: of a signature, of an update that counted less.
coded_in() { sed -n '/pub fn code(&self)/,/^    }/p' "$@" | grep -oE '"[a-z_]+"' | tr -d '"' | sort -u; }

if [ -f "$EXPLAINED" ]; then
  explained=$(sed -nE 's/^### `([a-z_]+)`$/\1/p' "$EXPLAINED" | sort)
  while IFS= read -r code; do
    found "$EXPLAINED: $code has two headings"
  done < <(uniq -d <<<"$explained")
  # What a node can be told. A new file of refusals belongs into this list.
  refusing=("$API"/{updates,audits,intake,gate,workers,blobs,enrolment,keys,directives,ledger,sums,standing,extract,error,mod}.rs
    crates/rounds/src/decide/*.rs crates/coordinator/src/auth/*.rs crates/coordinator/src/driver/{live,audits/*}.rs
    crates/coordinator/src/eligible.rs
    crates/rounds/src/{audit,probe}.rs crates/protocol/src/signing.rs)
  coding=(crates/rounds/src/explain.rs crates/protocol/src/signing.rs)
  for source in "${refusing[@]}" "${coding[@]}"; do
    [ -f "$source" ] || found "ci/tidy.sh: $source is not there; say where its refusals went"
  done
  must=$(refused_in "${refusing[@]}" && coded_in "${coding[@]}")
  while IFS= read -r code; do
    found "$EXPLAINED: no heading '### \`$code\`', a code that the program refuses with"
  done < <(comm -13 <(uniq <<<"$explained") <(sort -u <<<"$must"))
  # More files may say what has a heading: some of their codes are for operators alone.
  may=$(printf '%s\n' "$must" && refused_in "$API"/*.rs)
  while IFS= read -r code; do
    found "$EXPLAINED: '### \`$code\`' is a code that the program does not know"
  done < <(comm -23 <(uniq <<<"$explained") <(sort -u <<<"$may"))
  # What can be wrong with a payload has one code and a row for each kind.
  kinds=$(sed -n '/^pub enum DecodeError/,/^}/p' crates/merge/src/error.rs | sed -nE 's/^    ([A-Z][A-Za-z]+)( \{|,)$/\1/p')
  rows=$(sed -nE 's/^\| `([A-Z][A-Za-z]+)` \|.*/\1/p' "$EXPLAINED")
  while IFS= read -r kind; do
    found "$EXPLAINED: DecodeError and the table under bad_payload differ in $kind"
  done < <(comm -3 <(sort <<<"$kinds") <(sort <<<"$rows") | tr -d '\t')
else
  found "$EXPLAINED: it is not there; it explains each code with which a node's work is refused"
fi

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

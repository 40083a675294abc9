#!/usr/bin/env bash
# Style and static analysis. Prints a line per check, and only what is wrong in full.
set -uo pipefail

usage() {
  cat <<'TEXT'
Usage: tests/lint.sh [--all] [--build DIR]
  --all        clang-tidy on every source, not only on what differs from the last state of main
  --build DIR  configured build folder with compile_commands.json (build/release)
TEXT
}

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2
all=no build=build/release
while (($#)); do
  case "$1" in
    --all) all=yes && shift ;;
    --build)
      (($# >= 2)) || { usage >&2 && exit 2; }
      build=$2 && shift 2
      ;;
    -h | --help) usage && exit 0 ;;
    *) usage >&2 && exit 2 ;;
  esac
done
if [[ ! -f "$build/compile_commands.json" ]]; then
  echo "lint.sh: no $build/compile_commands.json; run cmake --preset release first" >&2
  exit 2
fi

jobs=$(nproc)
failures=0
scratch=$(mktemp -d)
report=$scratch/report
trap 'rm -rf "$scratch"' EXIT

# check NAME COMMAND...: runs it, quietly unless it fails.
check() {
  local name=$1
  shift
  if "$@" >"$report" 2>&1; then
    echo "ok      $name"
  else
    echo "FAILED  $name"
    cat "$report"
    ((++failures))
  fi
}

# Files that git knows or could know: never what a build or an environment made.
files() { git ls-files --cached --others --exclude-standard -- "$@" | existing; }
existing() { while read -r file; do [[ ! -f "$file" ]] || echo "$file"; done; }
cpp_files() { files 'src/*' 'include/*' 'tests/*' | grep -E '\.(cpp|hpp|cu|cuh)$'; }
scripts() { files '*.sh' '*.sbatch' '*.bash' .ci/run; }

formatted() { cpp_files | xargs -r clang-format --dry-run -Werror; }

# The compiler's view of the third-party headers, from any source of the library.
include_flags() {
  python3 - "$build/compile_commands.json" <<'PY'
import json, shlex, sys
entry = next(e for e in json.load(open(sys.argv[1])) if "/src/" in e["file"])
words = shlex.split(entry["command"])
flags = []
for word, following in zip(words, words[1:] + [""]):
    if word == "-isystem":
        flags += [word, following]
    elif word.startswith(("-I", "-D", "-std=")):
        flags.append(word)
print("\n".join(flags))
PY
}

# One source per header that includes nothing else: it must compile.
self_contained() {
  local flags header number=0
  mapfile -t flags < <(include_flags)
  ((${#flags[@]})) || return 1
  while read -r header; do
    ((++number))
    echo "#include \"$PWD/$header\"" >"$scratch/header$number.cpp"
  done < <(files 'include/*' | grep '\.hpp$')
  find "$scratch" -name 'header*.cpp' -print0 | xargs -r -0 -P "$jobs" -n 1 g++ "${flags[@]}" -fsyntax-only
}

changed_sources() {
  local base
  if [[ "$all" == no ]] && base=$(git merge-base HEAD main~ 2>/dev/null); then
    { git diff --name-only "$base" && git ls-files --others --exclude-standard; } | sort -u
  else
    git ls-files
  fi | { grep -E '^(src|tests)/.*\.cpp$' || true; } | existing # nothing changed is no failure
}

# Only what the build compiles has a command to analyse it with.
tidy() {
  changed_sources | while read -r file; do
    if grep -qF "/$file\"" "$build/compile_commands.json"; then echo "$file"; fi
  done | xargs -r -P "$jobs" -n 1 clang-tidy -p "$build" --quiet 2> >(grep -v 'warnings generated' >&2)
}

short_enough() {
  cpp_files | xargs -r wc -l | awk '$2 != "total" && $1 > 600 { print $2 ": " $1 " lines; at most 600"; bad = 1 } END { exit bad }'
}

shell_clean() { scripts | xargs -r shellcheck; }

ruff=ruff
[[ -x .venv/bin/ruff ]] && ruff=.venv/bin/ruff

check "clang-format" formatted
check "floors" python3 tests/floors.py
check "file length" short_enough
check "shellcheck" shell_clean
check "ruff check" "$ruff" check .
check "ruff format" "$ruff" format --check .
check "headers are self-contained" self_contained
check "clang-tidy" tidy
((failures == 0))

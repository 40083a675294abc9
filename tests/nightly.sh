#!/usr/bin/env bash
# tests/nightly.sh: the checks that are too slow for every change: a million inputs to each fuzz
# target, and memcheck. An hour or two; `tests/run.sh` first.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

cmake --preset fuzz
cmake --build --preset fuzz
for target in build/fuzz/bin/fuzz-*; do
  bash tests/fuzz/run.sh "$target" 1000000 build/fuzz/nightly -seed="$(date +%j)"
done

cmake --preset release
cmake --build --preset release --target quip
bash tests/valgrind.sh build/release/bin/quip

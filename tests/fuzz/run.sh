#!/usr/bin/env bash
# tests/fuzz/run.sh TARGET RUNS SCRATCH [OPTION...]: replays the target's corpus, then goes on with
# mutations of it until RUNS inputs were tried, the same ones every time. An input that fails stays
# in SCRATCH as crash-*, leak-*, oom-* or timeout-*, inputs that reach new code in SCRATCH/found.
# Further options go to libFuzzer.
set -euo pipefail
target=$1 runs=$2 scratch=$3
shift 3
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
name=$(basename "$target")
name=${name#fuzz-}
scratch=$scratch/$name
rm -rf "$scratch/found"
mkdir -p "$scratch/found"
options=(-runs="$runs" -seed=1 -max_len=4096 -timeout=20 -print_final_stats=1)
# Readers hold no more than what they read: much more is a finding.
options+=(-rss_limit_mb=1024 -malloc_limit_mb=64 -artifact_prefix="$scratch/")
[[ -f $here/$name.dict ]] && options+=(-dict="$here/$name.dict")
export ASAN_OPTIONS=detect_leaks=1:quarantine_size_mb=32 UBSAN_OPTIONS=print_stacktrace=1
exec "$target" "${options[@]}" "$@" "$scratch/found" "$here/corpus/$name"

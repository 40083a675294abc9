#!/usr/bin/env bash
# From a fresh clone to a quantized model in one command: installs what is missing, builds,
# rounds a small real model from tests/data, and shows its perplexity before and after.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: jobs/quickstart.sh [--ranks N] [--bits B] [--out DIR]
  --ranks N   MPI ranks (2)
  --bits B    bits per weight: 2, 3 or 4 (2)
  --out DIR   folder for the quantized model; must not exist (out/llama-nano-<B>bit)
TEXT
}

die() {
  echo "quickstart.sh: $1" >&2
  exit 2
}

ranks=2 bits=2 out=
while (($#)); do
  case "$1" in
    -h | --help) usage && exit 0 ;;
    --ranks | --bits | --out)
      (($# >= 2)) || die "$1 wants a value (see --help)"
      printf -v "${1#--}" '%s' "$2"
      shift 2
      ;;
    *) die "unknown option '$1' (see --help)" ;;
  esac
done
[[ "$ranks" =~ ^[1-9][0-9]*$ ]] || die "--ranks wants a positive number, not '$ranks'"
[[ "$bits" =~ ^[234]$ ]] || die "--bits wants 2, 3 or 4, not '$bits'"
if [[ -n "$out" ]]; then out=$(realpath -m -- "$out"); fi
cd "$(dirname "${BASH_SOURCE[0]}")/.."
: "${out:=$PWD/out/llama-nano-${bits}bit}"
if [[ -e "$out" ]]; then die "$out exists already; remove it or choose another with --out"; fi

bash jobs/install-deps.sh
echo "building (a few minutes the first time)"
cmake --preset release -DQUIP_BENCHMARKS=OFF >/dev/null
cmake --build --preset release --target quip -- --quiet

# Containers run as root and have few cores: Open MPI wants to be told that both are meant.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_mpi_yield_when_idle=1
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
quip() { mpirun -n "$ranks" build/release/bin/quip "$@"; }

model=tests/data/models/llama-nano
evaluation=tests/data/tokens/eval_sherlock.h5
perplexity() { python3 -c 'import json, sys; print("%.2f" % json.load(sys.stdin)["perplexity"])'; }
size() { du -cb "$@" | awk 'END { printf "%.2f MB", $1 / 1e6 }'; }

mkdir -p "$(dirname "$out")"
quip quantize --model "$model" --tokens tests/data/tokens/calib_train.h5 --out "$out" --bits "$bits"
before=$(quip eval --model "$model" --tokens "$evaluation" --json --progress none | perplexity)
after=$(quip eval --model "$model" --packed "$out" --tokens "$evaluation" --json --progress none | perplexity)

cat <<TEXT

perplexity before  $before  (llama-nano in bf16, on a book it never saw)
perplexity after   $after  ($bits bits per weight in the linear layers)
size               $(size "$model/model.safetensors") before, $(size "$out"/blocks/*.h5) of blocks and $(size "$out/rest.h5") of other tensors after

The quantized model lies in $out. Next:
  build/release/bin/quip inspect $out
  build/release/bin/quip export --packed $out --model $model --format bf16 --out DIR
Your own model: jobs/tokenize.py makes its token sets, jobs/quantize.sbatch runs it under Slurm.
TEXT

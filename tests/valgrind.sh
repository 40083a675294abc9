#!/usr/bin/env bash
# tests/valgrind.sh [QUIP]: memcheck over what two ranks do with a small model: quantize, evaluate,
# verify, export. Silent about third-party libraries by name only (tests/valgrind.supp). Minutes;
# not part of tests/run.sh. Needs no build of its own: valgrind's processor has AVX2 and nothing
# newer, and the program chooses its kernels by what the processor says.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
quip=${1:-build/release/bin/quip}
command -v valgrind >/dev/null || {
  echo "valgrind.sh: valgrind is missing; apt-get install valgrind" >&2
  exit 2
}
[[ -x $quip ]] || {
  echo "valgrind.sh: no program at $quip; build it or name another" >&2
  exit 2
}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_mpi_yield_when_idle=1
# One thread: OpenMP's and BLAS's sleeping workers are slow under valgrind, and add nothing.
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
# The kernels for that processor, which OpenBLAS may not know by its name; the program would
# restart itself with them.
export OPENBLAS_CORETYPE=Haswell

# memcheck RANKS ARGUMENT...: the program under memcheck. Definite leaks are errors.
memcheck() {
  local ranks=$1
  shift
  echo "memcheck, $ranks rank(s): quip $1"
  if ! mpirun -n "$ranks" valgrind --quiet --error-exitcode=99 --num-callers=30 --leak-check=full \
    --show-leak-kinds=definite --errors-for-leak-kinds=definite --gen-suppressions=all \
    --suppressions=tests/valgrind.supp --log-file="$scratch/$1.%p.log" \
    "$quip" "$@" >"$scratch/out" 2>&1; then
    tail -n 20 "$scratch/out"
    cat "$scratch/$1".*.log
    exit 1
  fi
}

models=tests/data/models tokens=tests/data/tokens
memcheck 2 quantize --model $models/llama-nano --tokens $tokens/calib_train.h5 --samples 2 \
  --out "$scratch/packed" --progress none
memcheck 2 eval --packed "$scratch/packed" --tokens $tokens/eval_sherlock.h5 --samples 1
memcheck 1 inspect --verify "$scratch/packed"
memcheck 1 export --packed "$scratch/packed" --model $models/llama-nano --out "$scratch/exported"
echo "no errors"

#!/usr/bin/env bash
# tests/nightly.sh: the checks that are too slow for every change: a million inputs to each fuzz
# target, memcheck, and the thorough form of the end-to-end tests. A few hours; `tests/run.sh` first.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

cmake --preset fuzz
cmake --build --preset fuzz
for target in build/fuzz/bin/fuzz-*; do
  bash tests/fuzz/run.sh "$target" 1000000 build/fuzz/nightly -seed="$(date +%j)"
done

cmake --preset asan
cmake --build --preset asan --target mpi_tests
ctest --test-dir build/asan -L '^mpi$' --output-on-failure

cmake --preset release
cmake --build --preset release --target quip cuda_tests
QUIP_THOROUGH=1 ctest --test-dir build/release -R cuda_trellis --output-on-failure
bash tests/valgrind.sh build/release/bin/quip

# Where there is a CUDA compiler, the whole program with it. Its tests run on a GPU, and say so where
# there is none.
if command -v nvcc >/dev/null || [[ -x /usr/local/cuda/bin/nvcc ]]; then
  export PATH=$PATH:/usr/local/cuda/bin
  cmake --preset cuda -DQUIP_BENCHMARKS=OFF
  cmake --build --preset cuda --target quip cuda_tests
  ctest --test-dir build/cuda -L '^gpu$' --output-on-failure
fi

# Exports, as the engines' own readers load them.
bash jobs/install-deps.sh --engines
QUIP_BINARY=build/release/bin/quip .venv/bin/python -m pytest -q -p no:cacheprovider tests/engines

# Every file operation and 60 random instants of a kill; every method on every number of ranks; every
# way to requeue a job.
QUIP_THOROUGH=1 QUIP_BINARY=build/release/bin/quip .venv/bin/python -m pytest -q -p no:cacheprovider \
  tests/e2e/test_{resume,matrix,slurm,scaling,golden,methods,options,ranks,wide,plan,cuda_on_host,experts,families}.py

#!/usr/bin/env bash
# Everything that has to pass, from a fresh clone: dependencies, build, all tests, sanitizers, lint.
# Shows failures in full, and closes with "N passed, M failed".
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2

passed=0 failed=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# step NAME COMMAND...: counts as one test, and shows the output only if it fails.
step() {
  local name=$1 begin=$SECONDS
  shift
  if "$@" >"$log" 2>&1; then
    printf '%-28s ok      %4d s\n' "$name" $((SECONDS - begin))
    ((++passed))
  else
    printf '%-28s FAILED  %4d s\n' "$name" $((SECONDS - begin))
    tail -n 200 "$log"
    ((++failed))
    return 1
  fi
}

# suite NAME FOLDER LABEL [JOBS]: the tests with this ctest label, each counted.
suite() {
  local name=$1 folder=$2 label=$3 jobs=${4:-$(nproc)} begin=$SECONDS results total bad
  results=$folder/results-$label.xml
  rm -f "$results"
  ctest --test-dir "$folder" -L "^$label\$" -j "$jobs" --output-on-failure --no-tests=error \
    --output-junit "results-$label.xml" >"$log" 2>&1
  total=$(grep -c '<testcase ' "$results" 2>/dev/null)
  bad=$((${total:-0} - $(grep -c 'status="run"' "$results" 2>/dev/null)))
  if ((${total:-0} == 0)); then
    bad=1 total=1 # nothing ran: that is a failure, not a success
  fi
  printf '%-28s %d of %d passed  %4d s\n' "$name" $((total - bad)) "$total" $((SECONDS - begin))
  ((bad == 0)) || cat "$log"
  ((passed += total - bad, failed += bad))
}

finish() {
  echo "$passed passed, $failed failed"
  exit $((failed > 0))
}

step "dependencies" bash jobs/install-deps.sh --tests || finish
step "configure" cmake --preset check || finish
step "build" cmake --build --preset check || finish
suite "unit tests" build/check unit
# Three ranks a core: they wait most of the time, for each other and for mpirun.
suite "mpi tests" build/check mpi $((3 * $(nproc)))
# These wait, too: for daemons, kills and Slurm.
suite "end-to-end tests" build/check e2e $(($(nproc) * 3 / 2))
# Checks each source by itself.
step "configure for lint" cmake --preset release && suite "lint" build/release lint
# MPI, HDF5 and BLAS themselves are not built with sanitizers.
if step "configure with sanitizers" cmake --preset asan; then
  step "build with sanitizers" cmake --build --preset asan --target unit_tests
  suite "unit tests with sanitizers" build/asan unit
fi
# The device code, where there is a compiler for it. It runs above, on the host, and where there is a
# GPU from a build with -DQUIP_CUDA=ON.
if command -v nvcc >/dev/null || [[ -x /usr/local/cuda/bin/nvcc ]]; then
  export PATH=$PATH:/usr/local/cuda/bin
  # For one architecture: what nvcc says of a kernel it says for each.
  if step "configure with CUDA" cmake --preset cuda -DQUIP_BENCHMARKS=OFF -DCMAKE_UNITY_BUILD=ON \
    -DCMAKE_CUDA_ARCHITECTURES=90-real; then
    step "build the CUDA code" cmake --build --preset cuda --target quip_kernels quip_cuda
  fi
else
  echo "build the CUDA code          skipped: no nvcc"
fi
# Readers of other people's files, against malformed ones.
if step "configure fuzzing" cmake --preset fuzz && step "build fuzzing" cmake --build --preset fuzz; then
  suite "fuzzing" build/fuzz fuzz
fi
finish

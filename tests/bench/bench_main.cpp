#include <benchmark/benchmark.h>

#include "quip/linalg/blas.hpp"

int main(int argc, char** argv) {
  quip::restart_with_fitting_blas_kernels(argv);  // as the program does
  quip::use_one_blas_thread();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}

// Orthogonal transforms of n × columns weights beside two floors, measured in the same process on
// the same threads: `share_of_copy`, the time of copying the matrix over that of transforming it in
// place, and `share_of_gemm`, the flop rate over that of an sgemm.
#include <algorithm>

#include "gemm_rate.hpp"
#include <benchmark/benchmark.h>
#include <omp.h>

#include "quip/quant/transform/transform.hpp"

namespace quip {
namespace {

double seconds_of_copy(const Matrix<float>& x) {
  const Matrix<float> y(x.rows(), x.cols(), 0.0F);
  return best_seconds(5, [&] {
#pragma omp parallel for schedule(static)
    for (index_t i = 0; i < x.rows(); ++i) std::copy_n(x.row(i), x.cols(), y.row(i));
    benchmark::DoNotOptimize(y.data());
  });
}

void transform(benchmark::State& state, TransformKind kind) {
  const index_t n = state.range(0);
  const Matrix<float> x(n, state.range(1), 1.0F);
  const auto transform = make_transform(kind, n, 1, Side::input);
  for (auto _ : state) {
    apply_in_slabs(*transform, x.view(), false);
    benchmark::DoNotOptimize(x.data());
  }
  const int threads = omp_get_max_threads();
  const double rate = gemm_rate<float>(*make_cpu_backend(threads), threads);
  const double flops = transform_flops(kind, n) * static_cast<double>(x.cols());
  using Counter = benchmark::Counter;
  state.counters["share_of_copy"] = Counter(seconds_of_copy(x), Counter::kIsIterationInvariantRate);
  state.counters["share_of_gemm"] = Counter(flops / rate, Counter::kIsIterationInvariantRate);
  state.counters["threads"] = threads;
}

void real_sizes(benchmark::internal::Benchmark* bench) {
  for (const index_t n : {4096, 11008, 14336, 28672}) bench->Args({n, 2048});
  bench->Args({14336, 16384});  // 0.9 GB: beyond any cache
  bench->UseRealTime()->Unit(benchmark::kMillisecond);
}
BENCHMARK_CAPTURE(transform, hadamard, TransformKind::hadamard)->Apply(real_sizes);
BENCHMARK_CAPTURE(transform, hadamard_128, TransformKind::hadamard_128)->Apply(real_sizes);
BENCHMARK_CAPTURE(transform, kronecker, TransformKind::kronecker)->Apply(real_sizes);
BENCHMARK_CAPTURE(transform, kronecker_blocked, TransformKind::kronecker_blocked)
    ->Apply(real_sizes);
BENCHMARK_CAPTURE(transform, kronecker_nopermute, TransformKind::kronecker_nopermute)
    ->Apply(real_sizes);
BENCHMARK_CAPTURE(transform, dense, TransformKind::dense)
    ->Args({2048, 2048})
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace quip

// The exact Hessian update, by each kernel, beside the inexact syrk that it replaces.
// Rates count n²·T flop, as a syrk does. Arguments: n, threads.
#include <random>
#include <string>
#include <vector>

#include "gemm_rate.hpp"
#include <benchmark/benchmark.h>

#include "quip/backend/cpu_backend.hpp"

namespace quip {
namespace {

constexpr index_t token_count = 4096;

template <typename T>
Matrix<T> activations(index_t channels) {
  std::mt19937 generator(1);
  Matrix<T> x(token_count, channels);
  for (T& value : x.span()) value = static_cast<T>(static_cast<int>(generator() % 65535) - 32767);
  return x;
}

/// floor_ms: what the syrk's flop would take at the rate of sgemm.
void report(benchmark::State& state, double sgemm_flops) {
  const auto n = static_cast<double>(state.range(0));
  const double flop = n * n * token_count;
  const double done = flop * static_cast<double>(state.iterations());
  state.counters["GFLOP/s"] = benchmark::Counter(done * 1e-9, benchmark::Counter::kIsRate);
  state.counters["sgemm_GFLOP/s"] = sgemm_flops * 1e-9;
  state.counters["share_of_gemm"] =
      benchmark::Counter(done / sgemm_flops, benchmark::Counter::kIsRate);
  state.counters["floor_ms"] = flop / sgemm_flops * 1e3;
}

void exact(benchmark::State& state, HessianKernel kernel) {
  if (!is_supported(kernel)) return state.SkipWithError("not on this processor");
  const index_t n = state.range(0);
  const int threads = static_cast<int>(state.range(1));
  const auto backend = make_cpu_backend(threads, kernel);
  const auto x = activations<float>(n);
  const std::vector<float> scale(static_cast<std::size_t>(n), 1.0F);
  Matrix<double> sum(n, n, 0.0);
  const double rate = sgemm_rate(*backend, threads);
  state.SetLabel(backend->describe());
  for (auto _ : state) backend->accumulate_hessian(x.cview(), scale, sum.view());
  report(state, rate);
}

/// One BLAS thread: the yardstick of a core.
template <typename T>
void inexact(benchmark::State& state) {
  const index_t n = state.range(0);
  const auto backend = make_cpu_backend(1);
  const auto x = activations<T>(n);
  Matrix<T> sum(n, n, T{0});
  const double rate = sgemm_rate(*backend, 1);
  state.SetLabel(blas_kernel_name());
  for (auto _ : state) syrk_lower(Transpose::yes, T{1}, x.cview(), T{1}, sum.view());
  report(state, rate);
}

void sizes(benchmark::internal::Benchmark* bench) {
  bench->ArgNames({"n", "threads"})->UseRealTime()->Unit(benchmark::kMillisecond);
  for (const int threads : {1, 2}) {
    for (const int n : {1024, 2048, 4096}) bench->Args({n, threads});
  }
}

void one_thread(benchmark::internal::Benchmark* bench) {
  bench->ArgName("n")->UseRealTime()->Unit(benchmark::kMillisecond);
  for (const int n : {1024, 2048, 4096}) bench->Arg(n);
}

BENCHMARK_CAPTURE(exact, amx_int8, HessianKernel::amx_int8)->Apply(sizes);
BENCHMARK_CAPTURE(exact, vnni_int8, HessianKernel::vnni_int8)->Apply(sizes);
BENCHMARK_CAPTURE(exact, float64, HessianKernel::float64)->Apply(sizes);
BENCHMARK_TEMPLATE(inexact, float)->Name("ssyrk")->Apply(one_thread);
BENCHMARK_TEMPLATE(inexact, double)->Name("dsyrk")->Apply(one_thread);

}  // namespace
}  // namespace quip

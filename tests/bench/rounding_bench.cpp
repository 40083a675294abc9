// The method's hot loops beside their floors. Every benchmark reports `share_of_gemm`: its flop
// rate over that of an sgemm (dgemm for the factorisation) measured in the same process.
#include <cmath>
#include <cstdlib>

#include "gemm_rate.hpp"
#include "support/round_tile.hpp"
#include "support/scalar_options.hpp"
#include <benchmark/benchmark.h>
#include <omp.h>

#include "quip/comm/collectives.hpp"
#include "quip/core/rng.hpp"
#include "quip/pipeline/round_layer.hpp"
#include "quip/quant/code/dequantize.hpp"
#include "quip/quant/layer.hpp"
#include "quip/quant/transform/random_orthogonal.hpp"

namespace quip {
namespace {

Matrix<float> gaussian_weights(index_t m, index_t n) {
  const RandomStream random(1);
  Matrix<float> w(m, n);
#pragma omp parallel for
  for (index_t i = 0; i < w.size(); ++i) {
    w.data()[i] = static_cast<float>(random.normal(static_cast<std::uint64_t>(i)));
  }
  return w;
}

/// A Hessian with exponentially decaying correlations: well conditioned, not diagonal.
Matrix<double> toeplitz_hessian(index_t n) {
  Matrix<double> h(n, n);
#pragma omp parallel for
  for (index_t i = 0; i < n; ++i) {
    for (index_t j = 0; j < n; ++j) {
      h(i, j) = std::pow(0.9, std::abs(static_cast<double>(i - j)));
    }
  }
  return h;
}

/// The rate of a gemm in T on all threads, now.
template <typename T>
double rate_of_gemm() {
  const int threads = omp_get_max_threads();
  return gemm_rate<T>(*make_cpu_backend(threads), threads);
}

void report(benchmark::State& state, double flops, double rate) {
  state.counters["GFLOP/s"] =
      benchmark::Counter(flops * 1e-9, benchmark::Counter::kIsIterationInvariantRate);
  state.counters["share_of_gemm"] =
      benchmark::Counter(flops / rate, benchmark::Counter::kIsIterationInvariantRate);
  state.counters["threads"] = omp_get_max_threads();
}

struct Problem {
  Problem(index_t m, index_t n, const LayerOptions& options) : weights(gaussian_weights(m, n)) {
    prepared = prepare_layer(weights.cview(), toeplitz_hessian(n), options, "bench");
  }
  Matrix<float> weights;
  PreparedLayer prepared;
};

/// Flops a row of one method, over n²: feedback or update, greedy passes (2 each), loss where it is
/// not a by-product.
double cost_of(Method method, int passes) {
  switch (method) {
    case Method::nearest:
    case Method::ldlq:
    case Method::optq:
      return 1;
    case Method::ldlq_rg:
      return 1 + 2 * passes + 1;
    case Method::greedy:
      return 2 * passes + 1;
    case Method::ldl_admm:
      return 2;
  }
  return 0;
}

/// All rows of an m × n layer, with the third argument's number of passes where a method has them:
/// products with what was made of H, rounding and error bookkeeping.
void rounding(benchmark::State& state, Method method) {
  const index_t m = state.range(0);
  const index_t n = state.range(1);
  LayerOptions options = scalar_options();
  options.method = method;
  options.rho = 1.6;
  const int passes = options.effective_passes() > 0 ? static_cast<int>(state.range(2)) : 0;
  if (passes > 0) options.passes = passes;
  const Problem problem(m, n, options);
  const RowTiles tiles(n, {0, m});
  for (index_t t = 0; t < tiles.count(); ++t) {
    const MatrixView<float> tile = tiles.tile(t);
    for (index_t i = 0; i < tile.size(); ++i) {
      tile.data[i] = 1.5F + problem.weights.data()[(t * tile.size() + i) % problem.weights.size()];
    }
  }
  const auto rounder = make_rounder(options);
  int used = 0;  // a fixed point may come earlier
  for (auto _ : state) {
#pragma omp parallel for schedule(dynamic) reduction(max : used)
    for (index_t t = 0; t < tiles.count(); ++t) {
      const MatrixView<float> x = tiles.tile(t);
      RoundingTile tile = unit_tile(x, 3.0F, x.cols);
      used = std::max(used, round_tile(*rounder, problem.prepared, tile));
      benchmark::DoNotOptimize(tile.q.data);
    }
  }
  const auto size = static_cast<double>(n);
  const double flops = cost_of(method, used) * size * size;
  report(state, static_cast<double>(m) * flops, rate_of_gemm<float>());
  if (passes > 0) state.counters["passes"] = used;
}
void sizes(benchmark::internal::Benchmark* bench) {
  bench->Args({2048, 2048})->Args({4096, 4096})->UseRealTime()->Unit(benchmark::kMillisecond);
}
void sizes_and_passes(benchmark::internal::Benchmark* bench) {
  for (const int passes : {1, 5}) bench->Args({2048, 2048, passes});
  bench->Args({4096, 4096, 1})->UseRealTime()->Unit(benchmark::kMillisecond);
}
BENCHMARK_CAPTURE(rounding, nearest, Method::nearest)->Apply(sizes);
BENCHMARK_CAPTURE(rounding, ldlq, Method::ldlq)->Apply(sizes)->Args({1024, 4096});
BENCHMARK_CAPTURE(rounding, optq, Method::optq)->Apply(sizes);
BENCHMARK_CAPTURE(rounding, ldlq_rg, Method::ldlq_rg)->Apply(sizes_and_passes);
BENCHMARK_CAPTURE(rounding, greedy, Method::greedy)->Apply(sizes_and_passes);
BENCHMARK_CAPTURE(rounding, ldl_admm, Method::ldl_admm)->Apply(sizes);

/// A whole layer given H: rescale, transform and factorise H, transform W, search ρ, round, losses,
/// pack.
void whole_layer(benchmark::State& state) {
  const index_t n = state.range(0);
  const Matrix<float> w = gaussian_weights(n, n);
  LayerOptions options = scalar_options();
  for (auto _ : state) {
    state.PauseTiming();
    Matrix<double> h = toeplitz_hessian(n);
    state.ResumeTiming();
    const PreparedLayer prepared = prepare_layer(w.cview(), std::move(h), options, "bench");
    const LayerTransforms transforms =
        make_transforms(TransformKind::kronecker, n, n, prepared.seed_u, prepared.seed_v);
    const RowTiles tiles = transform_rows(w.cview(), prepared, transforms, {0, n});
    RhoSearch search(n, options.bits);
    while (!search.candidates().empty()) search.advance(search.evaluate(tiles, prepared, options));
    const RoundedRows rows = round_rows(tiles, prepared, options, search.result());
    benchmark::DoNotOptimize(rows.layer.codes.data());
  }
  // Counted: LDLᵀ n³/3 in fp64, rounding and the reference norm 2·n³ in fp32.
  const auto size = static_cast<double>(n);
  report(state, 2 * size * size * size, rate_of_gemm<float>());
}
BENCHMARK(whole_layer)
    ->Arg(1024)
    ->Arg(2048)
    ->Arg(4096)
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);

/// From H and W to the dequantized weights: what the authors' program does to a layer. Beyond it,
/// the search for ρ and the losses.
void method_on_a_layer(benchmark::State& state, Method method) {
  const index_t n = state.range(0);
  const Matrix<float> w = gaussian_weights(n, n);
  LayerOptions options = scalar_options();
  options.method = method;
  SelfCollectives alone;
  for (auto _ : state) {
    state.PauseTiming();
    Matrix<double> h = toeplitz_hessian(n);
    state.ResumeTiming();
    const PreparedLayer prepared = prepare_layer(w.cview(), std::move(h), options, "bench");
    const StoredLayer stored = round_layer(alone, "bench", w.cview(), prepared, options);
    const Matrix<float> dequantized = dequantize(stored.layer);
    benchmark::DoNotOptimize(dequantized.data());
  }
  state.counters["threads"] = omp_get_max_threads();
}
void one_size(benchmark::internal::Benchmark* bench) {
  bench->Arg(2048)->UseRealTime()->Unit(benchmark::kMillisecond);
}
BENCHMARK_CAPTURE(method_on_a_layer, nearest, Method::nearest)->Apply(one_size);
BENCHMARK_CAPTURE(method_on_a_layer, ldlq, Method::ldlq)->Apply(one_size);
BENCHMARK_CAPTURE(method_on_a_layer, optq, Method::optq)->Apply(one_size);
BENCHMARK_CAPTURE(method_on_a_layer, ldlq_rg, Method::ldlq_rg)->Apply(one_size);
BENCHMARK_CAPTURE(method_on_a_layer, greedy, Method::greedy)->Apply(one_size);
BENCHMARK_CAPTURE(method_on_a_layer, ldl_admm, Method::ldl_admm)->Apply(one_size);

/// U W and W Vᵀ of an m × n layer: 2·m·n·(p+q) flops for each side.
void kronecker(benchmark::State& state) {
  const index_t m = state.range(0);
  const index_t n = state.range(1);
  const Matrix<float> w = gaussian_weights(m, n);
  PreparedLayer plain;
  const LayerTransforms transforms = make_transforms(TransformKind::kronecker, m, n, 1, 2);
  for (auto _ : state) {
    const RowTiles tiles = transform_rows(w.cview(), plain, transforms, {0, m});
    benchmark::DoNotOptimize(tiles.tile(0).data);
  }
  const Factorization a = balanced_factors(m);
  const Factorization b = balanced_factors(n);
  report(state,
         2.0 * static_cast<double>(m) * static_cast<double>(n) *
             static_cast<double>(a.p + a.q + b.p + b.q),
         rate_of_gemm<float>());
}
BENCHMARK(kronecker)
    ->Args({2048, 2048})
    ->Args({4096, 4096})
    ->Args({4096, 11008})
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);

/// LDLᵀ with everything around it: n³/3 flops for the factorisation, 4·n²·(p+q) for V H Vᵀ.
void factorisation(benchmark::State& state) {
  const index_t n = state.range(0);
  const Matrix<float> w = gaussian_weights(256, n);
  LayerOptions options = scalar_options();
  for (auto _ : state) {
    state.PauseTiming();
    Matrix<double> h = toeplitz_hessian(n);
    state.ResumeTiming();
    const PreparedLayer prepared = prepare_layer(w.cview(), std::move(h), options, "bench");
    benchmark::DoNotOptimize(prepared.factor.panels.data());
  }
  const auto size = static_cast<double>(n);
  const Factorization f = balanced_factors(n);
  report(state, size * size * size / 3 + 4 * size * size * static_cast<double>(f.p + f.q),
         rate_of_gemm<double>());
}
BENCHMARK(factorisation)
    ->Arg(1024)
    ->Arg(2048)
    ->Arg(4096)
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace quip

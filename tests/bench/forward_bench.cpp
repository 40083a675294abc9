// The forward pass of a Llama-shaped block, one sample per thread, and its parts.
// Arguments: threads.
#include "gemm_rate.hpp"
#include <benchmark/benchmark.h>

namespace quip {
namespace {

constexpr index_t kTokens = 512;
constexpr index_t kHidden = 2048;
constexpr index_t kIntermediate = 5632;
constexpr AttentionShape kShape{
    .heads = 16, .kv_heads = 4, .head_dim = 128, .scale = 0.088388F, .window = {}};
constexpr index_t kKeyValue = kShape.kv_heads * kShape.head_dim;
const ConstTensorView kNoBias;

Matrix<float> ramp(index_t rows, index_t cols, float magnitude) {
  Matrix<float> matrix(rows, cols);
  for (index_t i = 0; i < matrix.size(); ++i) {
    matrix.data()[i] = magnitude * (static_cast<float>(i * 7919 % 2001) / 1000.0F - 1.0F);
  }
  return matrix;
}

struct Weights {
  Matrix<float> gain{1, kHidden, 1.0F};
  Matrix<float> q = ramp(kHidden, kHidden, 0.03F);
  Matrix<float> k = ramp(kKeyValue, kHidden, 0.03F);
  Matrix<float> v = ramp(kKeyValue, kHidden, 0.03F);
  Matrix<float> o = ramp(kHidden, kHidden, 0.03F);
  Matrix<float> gate = ramp(kIntermediate, kHidden, 0.03F);
  Matrix<float> up = ramp(kIntermediate, kHidden, 0.03F);
  Matrix<float> down = ramp(kHidden, kIntermediate, 0.03F);
  // One true rotation for all: repeated, it neither grows nor shrinks a vector.
  Matrix<float> cosine{kTokens, kShape.head_dim / 2, 0.8F};
  Matrix<float> sine{kTokens, kShape.head_dim / 2, 0.6F};
};

/// What one sample needs, in memory of its own.
struct Sample {
  Matrix<float> residual = ramp(kTokens, kHidden, 1.0F);
  Matrix<float> normed{kTokens, kHidden, 0.0F};
  Matrix<float> q = ramp(kTokens, kHidden, 1.0F);
  Matrix<float> k = ramp(kTokens, kKeyValue, 1.0F);
  Matrix<float> v = ramp(kTokens, kKeyValue, 1.0F);
  Matrix<float> mixed{kTokens, kHidden, 0.0F};
  Matrix<float> gate = ramp(kTokens, kIntermediate, 4.0F);
  Matrix<float> up = ramp(kTokens, kIntermediate, 4.0F);
};

void attend(Backend& backend, const Weights& w, Sample& s) {
  backend.rope(s.q.view(), kShape.heads, kShape.head_dim, w.cosine.cview(), w.sine.cview());
  backend.rope(s.k.view(), kShape.kv_heads, kShape.head_dim, w.cosine.cview(), w.sine.cview());
  backend.attention(s.q.cview(), s.k.cview(), s.v.cview(), kShape, s.mixed.view());
}

void block(Backend& backend, const Weights& w, Sample& s) {
  backend.rms_norm(s.residual.cview(), w.gain.cview(), 1e-5F, s.normed.view());
  backend.linear(s.normed.cview(), w.q.cview(), kNoBias, s.q.view());
  backend.linear(s.normed.cview(), w.k.cview(), kNoBias, s.k.view());
  backend.linear(s.normed.cview(), w.v.cview(), kNoBias, s.v.view());
  attend(backend, w, s);
  backend.linear_add(s.mixed.cview(), w.o.cview(), kNoBias, s.residual.view());
  backend.rms_norm(s.residual.cview(), w.gain.cview(), 1e-5F, s.normed.view());
  backend.linear(s.normed.cview(), w.gate.cview(), kNoBias, s.gate.view());
  backend.linear(s.normed.cview(), w.up.cview(), kNoBias, s.up.view());
  backend.gated_activate(Activation::silu, s.gate.view(), s.up.cview());
  backend.linear_add(s.gate.cview(), w.down.cview(), kNoBias, s.residual.view());
}

constexpr double kLinearFlop =
    2.0 * kTokens * kHidden * (2.0 * kHidden + 2.0 * kKeyValue + 3.0 * kIntermediate);
/// Scores and values of the causal half, which is all that has to be formed.
constexpr double kAttentionFlop = 2.0 * kTokens * (kTokens + 1) * kHidden;

/// floor_ms: what the flop of one sample would take at the rate of sgemm.
template <typename Work>
void measure(benchmark::State& state, double flop, const Work& work) {
  const int threads = static_cast<int>(state.range(0));
  const auto backend = make_cpu_backend(threads);
  const Weights weights;
  std::vector<Sample> samples(static_cast<std::size_t>(threads));
  const double rate = sgemm_rate(*backend, threads);
  state.SetLabel(backend->describe());
  for (auto _ : state) {
    backend->for_each_unit(
        threads, [&](index_t i) { work(*backend, weights, samples[static_cast<std::size_t>(i)]); });
  }
  const double done = flop * threads * static_cast<double>(state.iterations());
  state.counters["GFLOP/s"] = benchmark::Counter(done * 1e-9, benchmark::Counter::kIsRate);
  state.counters["sgemm_GFLOP/s"] = rate * 1e-9;
  state.counters["share_of_gemm"] = benchmark::Counter(done / rate, benchmark::Counter::kIsRate);
  state.counters["floor_ms"] = flop * threads / rate * 1e3;
}

void whole_block(benchmark::State& state) { measure(state, kLinearFlop + kAttentionFlop, block); }
void attention(benchmark::State& state) { measure(state, kAttentionFlop, attend); }

/// Not flop in the usual sense: judged by its time beside the block's. The copy keeps the argument
/// from dwindling to subnormals.
void gated_silu(benchmark::State& state) {
  measure(state, static_cast<double>(kTokens * kIntermediate),
          [](Backend& backend, const Weights&, Sample& s) {
            backend.copy(s.up.cview(), s.gate.view());
            backend.gated_activate(Activation::silu, s.gate.view(), s.up.cview());
          });
}
void rms_norm(benchmark::State& state) {
  measure(state, 3.0 * kTokens * kHidden, [](Backend& backend, const Weights& w, Sample& s) {
    backend.rms_norm(s.residual.cview(), w.gain.cview(), 1e-5F, s.normed.view());
  });
}

void one_and_two(benchmark::internal::Benchmark* bench) {
  bench->ArgName("threads")->Arg(1)->Arg(2)->UseRealTime()->Unit(benchmark::kMillisecond);
}
BENCHMARK(whole_block)->Apply(one_and_two);
BENCHMARK(attention)->Apply(one_and_two);
BENCHMARK(gated_silu)->Apply(one_and_two);
BENCHMARK(rms_norm)->Apply(one_and_two);

}  // namespace
}  // namespace quip

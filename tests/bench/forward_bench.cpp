// The forward pass of a Llama-shaped block, one sample per thread, and its parts.
// Arguments: threads.
#include "gemm_rate.hpp"
#include <benchmark/benchmark.h>

namespace quip {
namespace {

constexpr index_t token_count = 512;
constexpr index_t hidden_size = 2048;
constexpr index_t intermediate = 5632;
constexpr AttentionShape attention_shape{
    .heads = 16, .kv_heads = 4, .head_dim = 128, .scale = 0.088388F, .window = {}};
constexpr index_t key_value = attention_shape.kv_heads * attention_shape.head_dim;
const ConstTensorView no_bias;

Matrix<float> ramp(index_t rows, index_t cols, float magnitude) {
  Matrix<float> matrix(rows, cols);
  for (index_t i = 0; i < matrix.size(); ++i) {
    matrix.data()[i] = magnitude * (static_cast<float>(i * 7919 % 2001) / 1000.0F - 1.0F);
  }
  return matrix;
}

struct Weights {
  Matrix<float> gain{1, hidden_size, 1.0F};
  Matrix<float> q = ramp(hidden_size, hidden_size, 0.03F);
  Matrix<float> k = ramp(key_value, hidden_size, 0.03F);
  Matrix<float> v = ramp(key_value, hidden_size, 0.03F);
  Matrix<float> o = ramp(hidden_size, hidden_size, 0.03F);
  Matrix<float> gate = ramp(intermediate, hidden_size, 0.03F);
  Matrix<float> up = ramp(intermediate, hidden_size, 0.03F);
  Matrix<float> down = ramp(hidden_size, intermediate, 0.03F);
  // One true rotation for all: repeated, it neither grows nor shrinks a vector.
  Matrix<float> cosine{token_count, attention_shape.head_dim / 2, 0.8F};
  Matrix<float> sine{token_count, attention_shape.head_dim / 2, 0.6F};
};

/// What one sample needs, in memory of its own.
struct Sample {
  Matrix<float> residual = ramp(token_count, hidden_size, 1.0F);
  Matrix<float> normed{token_count, hidden_size, 0.0F};
  Matrix<float> q = ramp(token_count, hidden_size, 1.0F);
  Matrix<float> k = ramp(token_count, key_value, 1.0F);
  Matrix<float> v = ramp(token_count, key_value, 1.0F);
  Matrix<float> mixed{token_count, hidden_size, 0.0F};
  Matrix<float> gate = ramp(token_count, intermediate, 4.0F);
  Matrix<float> up = ramp(token_count, intermediate, 4.0F);
};

void attend(Backend& backend, const Weights& w, Sample& s) {
  backend.rope(s.q.view(), {attention_shape.heads, attention_shape.head_dim}, w.cosine.cview(),
               w.sine.cview());
  backend.rope(s.k.view(), {attention_shape.kv_heads, attention_shape.head_dim}, w.cosine.cview(),
               w.sine.cview());
  backend.attention(s.q.cview(), s.k.cview(), s.v.cview(), attention_shape, {}, s.mixed.view());
}

void block(Backend& backend, const Weights& w, Sample& s) {
  backend.rms_norm(s.residual.cview(), w.gain.cview(), 1e-5F, s.normed.view());
  backend.linear(s.normed.cview(), w.q.cview(), no_bias, s.q.view());
  backend.linear(s.normed.cview(), w.k.cview(), no_bias, s.k.view());
  backend.linear(s.normed.cview(), w.v.cview(), no_bias, s.v.view());
  attend(backend, w, s);
  backend.linear_add(s.mixed.cview(), w.o.cview(), no_bias, s.residual.view());
  backend.rms_norm(s.residual.cview(), w.gain.cview(), 1e-5F, s.normed.view());
  backend.linear(s.normed.cview(), w.gate.cview(), no_bias, s.gate.view());
  backend.linear(s.normed.cview(), w.up.cview(), no_bias, s.up.view());
  backend.gated_activate(Activation::silu, s.gate.view(), s.up.cview());
  backend.linear_add(s.gate.cview(), w.down.cview(), no_bias, s.residual.view());
}

constexpr double linear_flop =
    2.0 * token_count * hidden_size * (2.0 * hidden_size + 2.0 * key_value + 3.0 * intermediate);
/// Scores and values of the causal half, which is all that has to be formed.
constexpr double attention_flop = 2.0 * token_count * (token_count + 1) * hidden_size;

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

void whole_block(benchmark::State& state) { measure(state, linear_flop + attention_flop, block); }
void attention(benchmark::State& state) { measure(state, attention_flop, attend); }

/// Not flop in the usual sense: judged by its time beside the block's. The copy keeps the argument
/// from dwindling to subnormals.
void gated_silu(benchmark::State& state) {
  measure(state, static_cast<double>(token_count * intermediate),
          [](Backend& backend, const Weights&, Sample& s) {
            backend.copy(s.up.cview(), s.gate.view());
            backend.gated_activate(Activation::silu, s.gate.view(), s.up.cview());
          });
}
void rms_norm(benchmark::State& state) {
  measure(state, 3.0 * token_count * hidden_size,
          [](Backend& backend, const Weights& w, Sample& s) {
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

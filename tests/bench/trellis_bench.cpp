// The search for the states of tiles, one thread, beside the floor of its instructions. A state
// takes four (difference, square, sum, minimum), each on 32 of them with AVX-512 and on 16 with
// AVX2, which only two of the processor's units can do: `share_of_floor` is the rate at which
// states are searched over that of the same four instructions on registers, measured in the same
// run. A round about the ring is 256 steps of 65536 states; the search for the seam takes one more,
// or a half. Beside the four there are, for each of 2^bits predecessors of a vector, the load and
// lowering of its cost, and for each result the share in the least cost, `bits` shuffles and a
// store: at 2 bits 12 more instructions on the same two units beside 60.
#include <algorithm>
#include <chrono>
#include <vector>

#include <benchmark/benchmark.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "quip/core/rng.hpp"
#include "quip/quant/trellis/search.hpp"
#include "quip/quant/trellis/tile.hpp"

namespace quip::trellis {
namespace {

#if defined(__x86_64__)
constexpr int rounds = 20000;
constexpr int chains = 8;

/// Takes four instructions on each of eight vectors, again and again.
__attribute__((target("avx512f,avx512bw"))) double states_avx512() {
  __m512i best[chains];
  for (auto& x : best) x = _mm512_set1_epi16(-1);
  __m512i x = _mm512_set1_epi16(5);
  for (int i = 0; i < rounds; ++i) {
    for (auto& b : best) {
      __m512i e;
      asm volatile(
          "vpsubw %2, %2, %1\n\tvpmulhrsw %1, %1, %1\n\tvpaddw %2, %1, %1\n\tvpminuw %1, %0, %0"
          : "+v"(b), "=&v"(e)
          : "v"(x));
    }
  }
  return 32.0 * rounds * chains;
}

__attribute__((target("avx2"))) double states_avx2() {
  __m256i best[chains];
  for (auto& x : best) x = _mm256_set1_epi16(-1);
  __m256i x = _mm256_set1_epi16(5);
  for (int i = 0; i < rounds; ++i) {
    for (auto& b : best) {
      __m256i e;
      asm volatile(
          "vpsubw %2, %2, %1\n\tvpmulhrsw %1, %1, %1\n\tvpaddw %2, %1, %1\n\tvpminuw %1, %0, %0"
          : "+x"(b), "=&x"(e)
          : "x"(x));
    }
  }
  return 16.0 * rounds * chains;
}

/// Returns the states a second that the four instructions allow; 0 if there is no such unit.
double floor_rate() {
  using Clock = std::chrono::steady_clock;
  const bool avx512 = __builtin_cpu_supports("avx512bw");
  if (!avx512 && !__builtin_cpu_supports("avx2")) return 0;
  double best = 0;
  for (int repeat = 0; repeat < 50; ++repeat) {
    const auto start = Clock::now();
    const double states = avx512 ? states_avx512() : states_avx2();
    best = std::max(best, states / std::chrono::duration<double>(Clock::now() - start).count());
  }
  return best;
}
#else
double floor_rate() { return 0; }
#endif

void search(benchmark::State& state, SeamSearch seam, double rounds_a_tile) {
  const auto bits = static_cast<int>(state.range(0));
  const index_t tiles = state.range(1);
  const RandomStream random(1);
  std::vector<float> targets(at(tiles * tile_steps));
  for (std::size_t i = 0; i < targets.size(); ++i) {
    targets[i] = 0.9F * static_cast<float>(random.normal(i));
  }
  std::vector<std::uint16_t> states(targets.size());
  const auto tile_search = make_tile_search(Codebook::mul1, bits, seam);
  const auto workspace = tile_search->workspace();
  for (auto _ : state) {
    tile_search->encode(targets.data(), tiles, *workspace, states.data());
    benchmark::DoNotOptimize(states.data());
  }
  using Counter = benchmark::Counter;
  const auto weights = static_cast<double>(targets.size());
  state.counters["weights"] = Counter(weights, Counter::kIsIterationInvariantRate);
  if (const double floor = floor_rate(); floor > 0) {
    state.counters["share_of_floor"] =
        Counter(weights * rounds_a_tile * state_count / floor, Counter::kIsIterationInvariantRate);
  }
}

void all_bits(benchmark::internal::Benchmark* bench) {
  for (int bits = 1; bits <= max_bits; ++bits) bench->Args({bits, 16});
  bench->Unit(benchmark::kMillisecond);
}
BENCHMARK_CAPTURE(search, whole_round, SeamSearch::whole_round, 2.0)->Apply(all_bits);
BENCHMARK_CAPTURE(search, near_seam, SeamSearch::near_seam, 1.5)->Apply(all_bits);

}  // namespace
}  // namespace quip::trellis

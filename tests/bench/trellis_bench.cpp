// The search for the states of tiles, one thread, beside the floor of its instructions. A state
// takes four (difference, square, sum, minimum), each on 32 of them with AVX-512 and on 16 with
// AVX2, which only two of the processor's units can do: `share_of_floor` is the rate at which
// states are searched over that of the same four instructions on registers, measured in turns. Both
// are the best of many short runs, which is what a core without company does. A round about the
// ring is 256 steps of 65536 states; the search for the seam takes one more, or a half. Beside the
// four there are, for each of 2^bits predecessors of a vector, the load and lowering of its cost,
// and for each result the share in the least cost, `bits` shuffles and a store: at 2 bits 12 more
// instructions on the same two units beside 60.
#include <algorithm>
#include <ctime>
#include <vector>

#include <benchmark/benchmark.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "quip/core/rng.hpp"
#include "quip/quant/trellis/feedback.hpp"
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
  const __m512i x = _mm512_set1_epi16(5);
  const __m512i y = _mm512_set1_epi16(7);
  for (int i = 0; i < rounds; ++i) {
    for (auto& b : best) {
      __m512i e;
      asm volatile(
          "vpsubw %2, %3, %1\n\tvpmulhrsw %1, %1, %1\n\tvpaddw %2, %1, %1\n\tvpminuw %1, %0, %0"
          : "+v"(b), "=&v"(e)
          : "v"(x), "v"(y));
    }
  }
  return 32.0 * rounds * chains;
}

__attribute__((target("avx2"))) double states_avx2() {
  __m256i best[chains];
  for (auto& x : best) x = _mm256_set1_epi16(-1);
  const __m256i x = _mm256_set1_epi16(5);
  const __m256i y = _mm256_set1_epi16(7);
  for (int i = 0; i < rounds; ++i) {
    for (auto& b : best) {
      __m256i e;
      asm volatile(
          "vpsubw %2, %3, %1\n\tvpmulhrsw %1, %1, %1\n\tvpaddw %2, %1, %1\n\tvpminuw %1, %0, %0"
          : "+x"(b), "=&x"(e)
          : "x"(x), "x"(y));
    }
  }
  return 16.0 * rounds * chains;
}

/// Takes the four instructions for a while; returns the number of states, 0 if there is no such
/// unit.
double floor_states() {
  if (__builtin_cpu_supports("avx512bw")) return states_avx512();
  return __builtin_cpu_supports("avx2") ? states_avx2() : 0;
}
#else
double floor_states() { return 0; }
#endif

/// Returns the seconds that this thread has been on a processor.
double seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

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
  std::vector<double> rates;
  double best_floor = 0;
  for (auto _ : state) {
    const double start = seconds();
    tile_search->encode(targets.data(), tiles, *workspace, states.data());
    benchmark::DoNotOptimize(states.data());
    const double middle = seconds();
    // Beside each search, since the clock of a processor in company changes.
    const double on_registers = floor_states();
    const double end = seconds();
    state.SetIterationTime(middle - start);
    rates.push_back(static_cast<double>(targets.size()) / (middle - start));
    best_floor = std::max(best_floor, on_registers / (end - middle));
  }
  std::sort(rates.begin(), rates.end());
  state.counters["weights_per_s"] = rates[rates.size() / 2];
  state.counters["best"] = rates.back();
  if (best_floor > 0) {
    const double best_states = rates.back() * rounds_a_tile * state_count;
    state.counters["share_of_floor"] = best_states / best_floor;
  }
}

/// With feedback inside the tile: `rounds` is its time in rounds of the search without.
void feedback(benchmark::State& state) {
  const auto bits = static_cast<int>(state.range(0));
  const index_t tiles = state.range(1);
  const RandomStream random(1);
  std::vector<float> targets(at(tiles * tile_steps));
  for (std::size_t i = 0; i < targets.size(); ++i) {
    targets[i] = 0.9F * static_cast<float>(random.normal(i));
  }
  Matrix<double> block(tile_side, tile_side, 0.3);
  for (index_t i = 0; i < tile_side; ++i) block(i, i) = 1;
  const TileFeedback factors(block.cview());
  std::vector<std::uint16_t> states(targets.size());
  const auto plain = make_tile_search(Codebook::mul1, bits);
  const auto plain_workspace = plain->workspace();
  const auto with = make_feedback_search(Codebook::mul1, bits);
  const auto workspace = with->workspace();
  std::vector<double> rates;
  std::vector<double> ratios;
  for (auto _ : state) {
    const double start = seconds();
    with->encode(targets.data(), tiles, factors, *workspace, states.data());
    const double middle = seconds();
    plain->encode(targets.data(), tiles, *plain_workspace, states.data());
    const double end = seconds();
    state.SetIterationTime(middle - start);
    rates.push_back(static_cast<double>(targets.size()) / (middle - start));
    ratios.push_back(2 * (middle - start) / (end - middle));
  }
  std::sort(rates.begin(), rates.end());
  std::sort(ratios.begin(), ratios.end());
  state.counters["weights_per_s"] = rates[rates.size() / 2];
  state.counters["rounds"] = ratios[ratios.size() / 2];
}

void all_bits(benchmark::internal::Benchmark* bench) {
  for (int bits = 1; bits <= max_bits; ++bits) bench->Args({bits, 2});
  bench->UseManualTime()->Unit(benchmark::kMillisecond);
}
BENCHMARK_CAPTURE(search, whole_round, SeamSearch::whole_round, 2.0)->Apply(all_bits);
BENCHMARK_CAPTURE(search, near_seam, SeamSearch::near_seam, 1.5)->Apply(all_bits);

void narrow_bits(benchmark::internal::Benchmark* bench) {
  for (int bits = 1; bits <= max_feedback_bits; ++bits) bench->Args({bits, 4});
  bench->UseManualTime()->Unit(benchmark::kMillisecond);
}
BENCHMARK(feedback)->Apply(narrow_bits);

}  // namespace
}  // namespace quip::trellis

// The search for the states of tiles on the device beside the host's: the same states, bit for bit.
// (The host's are held to their definition in tests/unit/trellis_search_test.)
#include <cmath>
#include <limits>
#include <vector>

#include "backend/cuda/copies.hpp"
#include "backend/cuda/rounding_on_device.hpp"
#include "cuda/cuda_support.hpp"
#include "support/thorough.hpp"

#include "quip/core/rng.hpp"
#include "quip/quant/trellis/codebook.hpp"
#include "quip/quant/trellis/tile.hpp"

namespace quip::cuda_trellis_test {
namespace {

using trellis::Codebook;
using trellis::tile_side;
using trellis::tile_steps;

/// A column of tiles: what its coder is given and what it writes.
struct Column {
  Matrix<float> x;
  Matrix<float> target;
  Matrix<float> q;
  Matrix<float> error;
  std::vector<std::uint16_t> states;

  explicit Column(index_t tiles)
      : x(tile_side, tiles * tile_side),
        target(tile_side, tiles * tile_side),
        q(tile_side, tiles * tile_side),
        error(tile_side, tiles * tile_side),
        states(at(tiles * tile_steps)) {}

  /// Fills the targets of a tile, in the order of steps.
  template <typename Element>
  void set(index_t tile, const Element& element) {
    for (int step = 0; step < tile_steps; ++step) {
      const trellis::TilePlace place = trellis::place_of(step);
      target(place.input, tile * tile_side + place.output) = static_cast<float>(element(step));
      x(place.input, tile * tile_side + place.output) = 0.01F * static_cast<float>(step);
    }
  }
};

/// Codes on the host.
void code(Codebook codebook, int bits, Column& column) {
  const auto coder = host_rounding_math().tile_coder(codebook, bits);
  coder->code({column.x.cview(),
               column.target.cview(),
               {},
               column.q.view(),
               column.error.view(),
               column.states.data()});
}

/// Codes on the device.
void code(cuda::Context& context, Codebook codebook, int bits, Column& column) {
  const cuda::RoundingOnDevice math(context);
  const auto there = [&](const Matrix<float>& host) {
    auto matrix = math.lanes<float>(host.rows(), host.cols(), "of the test");
    math.upload<float>(host.span(), matrix.data);
    return matrix;
  };
  const auto x = there(column.x);
  const auto target = there(column.target);
  const auto q = there(column.x);
  const auto error = there(column.x);
  const auto states = math.lanes<std::uint16_t>(1, std::ssize(column.states), "of the test");
  math.tile_coder(codebook, bits)->code({x, target, {}, q, error, states.data});
  column.states = math.fetched(states);
  const auto back = [&](const Lanes<float>& matrix, Matrix<float>& host) {
    const std::vector<float> values = math.fetched(matrix);
    std::copy(values.begin(), values.end(), host.data());
  };
  back(q, column.q);
  back(error, column.error);
}

class CudaTrellis : public CudaTest, public testing::WithParamInterface<int> {
 protected:
  static void expect_the_hosts(Codebook codebook, Column& column) {
    const int bits = GetParam();
    cuda::Context context(0, 1, 1);
    code(codebook, bits, column);
    const std::vector<std::uint16_t> states = column.states;
    const Matrix<float> q = copy_of(column.q);
    const Matrix<float> error = copy_of(column.error);
    code(context, codebook, bits, column);
    for (std::size_t i = 0; i < states.size(); ++i) {
      ASSERT_EQ(column.states[i], states[i]) << trellis::to_string(codebook) << ", tile "
                                             << i / tile_steps << ", step " << i % tile_steps;
    }
    expect_same_bits(column.q, q);
    expect_same_bits(column.error, error);
  }

 private:
  static Matrix<float> copy_of(const Matrix<float>& x) {
    return pad(x.cview(), x.rows(), x.cols());
  }
};

// A block of threads takes two tiles at a time, or one. Hostile ones have ties everywhere,
// distances and costs that are cut off, targets beyond the codebook.
TEST_P(CudaTrellis, FindsTheHostsStates) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  const RandomStream random(3);
  Column column(3);
  column.set(0, [&](int step) { return random.normal(static_cast<std::uint64_t>(step)); });
  column.set(1, [](int step) {
    const double size = step < 100 ? 6.0 : 1e30;
    return step / (step < 100 ? 1 : 16) % 2 == 0 ? size : -size;
  });
  column.set(2, [](int step) { return step < 128 ? infinity : 0.0; });
  expect_the_hosts(Codebook::mul1, column);
}

TEST_P(CudaTrellis, FindsTheHostsStatesWithOtherCodebooks) {
  if (!thorough() && GetParam() > 2) GTEST_SKIP() << "at night";
  for (const Codebook codebook : {Codebook::mcg, Codebook::three_inst}) {
    Column column(1);
    column.set(0, [](int step) { return step % 7 == 3 ? -8.0 : (step - 128) / 40.0; });
    expect_the_hosts(codebook, column);
  }
}

/// Returns the numbers of bits to try: by day costs of 16 bits, the same cut off, and of 32 bits.
std::vector<int> tried_bits() {
  return thorough() ? std::vector{1, 2, 3, 4, 5, 6, 7, 8} : std::vector{2, 4, 8};
}

INSTANTIATE_TEST_SUITE_P(Bits, CudaTrellis, testing::ValuesIn(tried_bits()),
                         testing::PrintToStringParamName());

#ifdef QUIP_CUDA_ON_HOST
TEST_F(CudaTest, StatesDoNotDependOnTheOrderOfThreads) {
  for (const int bits : tried_bits()) {
    Column column(1);
    column.set(0, [](int step) { return std::sin(step * step); });
    code(Codebook::mul1, bits, column);
    const std::vector<std::uint16_t> expected = column.states;
    cuda::Context context(0, 1, 1);
    cuda_on_host::set_order(cuda_on_host::Order::descending);
    code(context, Codebook::mul1, bits, column);
    cuda_on_host::set_order(cuda_on_host::Order::ascending);
    EXPECT_EQ(column.states, expected) << bits << " bits";
  }
}
#endif

}  // namespace
}  // namespace quip::cuda_trellis_test

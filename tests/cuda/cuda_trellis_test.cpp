// Trellis codes on the device beside those of the host: the same states for the same targets, bit
// for bit, and weights that differ by rounding. (The host's are held to their definition in
// tests/unit/trellis_*_test.)
#include <cmath>
#include <limits>
#include <string>
#include <tuple>
#include <vector>

#include "backend/cuda/copies.hpp"
#include "backend/cuda/dequantize.hpp"
#include "backend/cuda/rounding_on_device.hpp"
#include "cuda/cuda_support.hpp"
#include "support/one_layer.hpp"

#include "quip/backend/device_work.hpp"
#include "quip/core/error.hpp"
#include "quip/core/rng.hpp"
#include "quip/quant/trellis/codebook.hpp"
#include "quip/quant/trellis/tile.hpp"

namespace quip {
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
  coder->code({column.x.cview(), column.target.cview(), column.q.view(), column.error.view(),
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
  math.tile_coder(codebook, bits)->code({x, target, q, error, states.data});
  column.states = math.fetched(states);
  const auto back = [&](const Lanes<float>& matrix, Matrix<float>& host) {
    const std::vector<float> values = math.fetched(matrix);
    std::copy(values.begin(), values.end(), host.data());
  };
  back(q, column.q);
  back(error, column.error);
}

class CudaTrellis : public CudaTest, public testing::WithParamInterface<std::tuple<int, Codebook>> {
 protected:
  void expect_the_hosts(Column& column) {
    const auto& [bits, codebook] = GetParam();
    cuda::Context context(0, 1, 1);
    Column device = column_like(column);
    code(codebook, bits, column);
    code(context, codebook, bits, device);
    for (std::size_t i = 0; i < column.states.size(); ++i) {
      ASSERT_EQ(device.states[i], column.states[i])
          << "tile " << i / tile_steps << ", step " << i % tile_steps;
    }
    expect_same_bits(device.q, column.q);
    expect_same_bits(device.error, column.error);
  }

 private:
  static Column column_like(const Column& column) {
    Column copy(std::ssize(column.states) / tile_steps);
    std::copy_n(column.x.data(), column.x.size(), copy.x.data());
    std::copy_n(column.target.data(), column.target.size(), copy.target.data());
    return copy;
  }
};

TEST_P(CudaTrellis, FindsTheHostsStates) {
  const float sigma = trellis::codebook_rms(std::get<1>(GetParam()));
  const RandomStream random(3);
  constexpr index_t tiles = 3;  // a block of threads takes two at a time, and this processor all
  Column column(tiles);
  for (index_t tile = 0; tile < tiles; ++tile) {
    column.set(tile, [&](int step) {
      return sigma * random.normal(static_cast<std::uint64_t>(tile * tile_steps + step));
    });
  }
  expect_the_hosts(column);
}

// Ties everywhere, distances and costs that are cut off, targets beyond the codebook.
TEST_P(CudaTrellis, FindsTheHostsStatesOfHostileTiles) {
  const float sigma = trellis::codebook_rms(std::get<1>(GetParam()));
  constexpr double infinity = std::numeric_limits<double>::infinity();
  Column column(6);
  column.set(0, [](int) { return 0.0; });
  column.set(1, [&](int step) { return (step % 2 == 0 ? 6.0 : -6.0) * sigma; });
  column.set(2, [&](int step) { return (step / 16 % 2 == 0 ? 1e30 : -1e30) * sigma; });
  column.set(3, [&](int step) { return (step == 255 ? -1e4 : std::sin(step)) * sigma; });
  column.set(4, [&](int step) { return step < 128 ? infinity : 0.5 * sigma; });
  column.set(5, [&](int step) { return (step % 7 == 3 ? -6.0 : (step - 128) / 40.0) * sigma; });
  expect_the_hosts(column);
}

INSTANTIATE_TEST_SUITE_P(
    Codes, CudaTrellis,
    testing::Combine(testing::Range(1, trellis::max_bits + 1),
                     testing::Values(Codebook::mul1, Codebook::mcg, Codebook::three_inst)),
    [](const auto& instance) {
      return std::to_string(std::get<0>(instance.param)) + "_bits_" +
             trellis::to_string(std::get<1>(instance.param));
    });

#ifdef QUIP_CUDA_ON_HOST
TEST_F(CudaTest, StatesDoNotDependOnTheOrderOfThreads) {
  for (const int bits : {2, 3, 4, 8}) {
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

LayerOptions trellis_options(int bits, Codebook codebook) {
  LayerOptions options;
  options.codebook = CodebookKind::trellis;
  options.trellis = codebook;
  options.bits = bits;
  options.seed = 7;
  return options;
}

// Two rows of tiles through both blocks of columns: feedback within tiles, blocks and beyond.
TEST_F(CudaTest, RoundsATrellisLayerToTheHostsCodes) {
  const LayerOptions options = trellis_options(3, Codebook::mul1);
  const Matrix<float> w = random_weights(128, 256, 1);
  const PreparedLayer layer =
      prepare_layer(w.cview(), random_hessian(256, 600, 2), options, "test");
  const Range rows{64, 96};
  const auto host = host_quantizer().rows(w.cview(), layer, options, rows);
  const auto device = cuda_->quantizer().rows(w.cview(), layer, options, rows);
  EXPECT_EQ(device->largest(), host->largest());
  const RoundedRows expected = host->round(0);
  const RoundedRows rounded = device->round(0);
  EXPECT_EQ(rounded.layer.codes, expected.layer.codes);
  EXPECT_EQ(rounded.layer.suh, expected.layer.suh);
  EXPECT_EQ(rounded.layer.svh, expected.layer.svh);
}

/// Returns a layer of random codes and scales whose W is smaller than its tiles.
QuantizedLinear random_layer(index_t outputs, index_t inputs, const LayerOptions& options) {
  QuantizedLinear layer = described(options, outputs, inputs);
  visit_parts([](const Part& part, auto& elements) { elements.resize(at(part.count())); }, layer);
  const RandomStream random(5);
  for (std::size_t i = 0; i < layer.codes.size(); ++i) {
    layer.codes[i] = static_cast<std::uint8_t>(random.bits(i));
  }
  const auto fill = [&](std::vector<std::uint16_t>& halves) {
    for (std::size_t i = 0; i < halves.size(); ++i) {
      halves[i] = static_cast<std::uint16_t>(0x3400 + i % 1000 + (i % 3 == 0 ? 0x8000 : 0));
    }
  };
  fill(layer.suh);
  fill(layer.svh);
  validate(layer, "of the test");
  return layer;
}

// The device adds 128 · 128 values in fp32, in 14 levels, and scales in three roundings: each level
// errs by half a unit of sums that grow like their root, √16384 · rms in the end.
TEST_F(CudaTest, DecodesATrellisWithinTheRoundingOfItsSums) {
  in_every_order([&] {
    for (const int bits : {1, 2, 3, 4, 5, 6, 7, 8}) {
      for (const Codebook codebook : {Codebook::mul1, Codebook::mcg, Codebook::three_inst}) {
        if (bits > 4 && codebook != Codebook::mul1) continue;
        const QuantizedLinear layer = random_layer(130, 200, trellis_options(bits, codebook));
        const auto device = cuda_->dequantize(layer);
        ASSERT_TRUE(device);
        const Matrix<float> host = dequantize(layer);
        double most = 0;
        for (const float w : host.span()) most = std::max(most, std::abs(double{w}));
        expect_near(on_host(device->cview()), host, 17 * 0x1p-24 * most);
      }
    }
  });
}

#ifdef QUIP_CUDA_ON_HOST
TEST_F(CudaTest, DecodingATrellisTakesTheMemoryThatItNames) {
  cuda::Context context(0, 1, 1);
  const LayerOptions options = trellis_options(3, Codebook::mul1);
  const QuantizedLinear layer = random_layer(130, 200, options);
  const auto out = context.buffer<float>(130 * 200, "weights");
  const auto room = static_cast<std::size_t>(dequantize_bytes(130, 200, options));
  cuda_on_host::set_memory(cuda_on_host::memory_in_use() + room);
  EXPECT_NO_THROW(cuda::dequantize(context, layer, out.view(130, 200)));
  cuda_on_host::set_memory(cuda_on_host::memory_in_use() + room - 1);
  EXPECT_THROW(cuda::dequantize(context, layer, out.view(130, 200)), Error);
  cuda_on_host::set_memory(std::size_t{8} << 30);
}
#endif

}  // namespace
}  // namespace quip

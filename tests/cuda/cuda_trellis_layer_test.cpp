// Layers with trellis codes on the device beside those of the host: the same codes for the same
// factor, and weights that differ by rounding.
#include <algorithm>
#include <cmath>
#include <vector>

#include "backend/cuda/dequantize.hpp"
#include "cuda/cuda_support.hpp"
#include "support/one_layer.hpp"
#include "support/thorough.hpp"

#include "quip/backend/device_work.hpp"
#include "quip/core/error.hpp"
#include "quip/core/rng.hpp"
#include "quip/quant/trellis/codebook.hpp"

namespace quip::cuda_trellis_layer_test {
namespace {

using trellis::Codebook;

LayerOptions trellis_options(int bits, Codebook codebook) {
  LayerOptions options;
  options.codebook = CodebookKind::trellis;
  options.trellis = codebook;
  options.bits = bits;
  options.seed = 7;
  return options;
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

// A row of tiles: feedback within them and a block of columns, at night to the next block as well.
TEST_F(CudaTest, RoundsATrellisLayerToTheHostsCodes) {
  const LayerOptions options = trellis_options(3, Codebook::mul1);
  const index_t n = thorough() ? 256 : 128;
  const Matrix<float> w = random_weights(128, n, 1);
  const PreparedLayer layer = prepare_layer(w.cview(), random_hessian(n, 600, 2), options, "test");
  const Range rows{64, 80};
  const auto host = host_quantizer().rows(w.cview(), layer, options, rows);
  const auto device = cuda_->quantizer().rows(w.cview(), layer, options, rows);
  EXPECT_EQ(device->largest(), host->largest());
  const RoundedRows expected = host->round(0);
  const RoundedRows rounded = device->round(0);
  EXPECT_EQ(rounded.layer.codes, expected.layer.codes);
  EXPECT_EQ(rounded.layer.suh, expected.layer.suh);
  EXPECT_EQ(rounded.layer.svh, expected.layer.svh);
}

// With a random layer's codes, which need not come from these weights.
TEST_F(CudaTest, MeasuresATrellisLayerToTheHostsBits) {
  for (const int bits : thorough() ? std::vector{1, 3, 8} : std::vector{3}) {
    const LayerOptions options = trellis_options(bits, Codebook::mul1);
    const Matrix<float> w = random_weights(128, 256, 1);
    const PreparedLayer layer =
        prepare_layer(w.cview(), random_hessian(256, 600, 2), options, "test");
    QuantizedLinear stored = random_layer(128, 256, options);
    stored.seed_u = layer.seed_u;
    stored.seed_v = layer.seed_v;
    for (const Range rows : {Range{0, 128}, Range{64, 96}}) {
      const auto host = host_quantizer().rows(w.cview(), layer, options, rows);
      const auto device = cuda_->quantizer().rows(w.cview(), layer, options, rows);
      expect_same(device->measure(stored), host->measure(stored));
    }
  }
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
}  // namespace quip::cuda_trellis_layer_test

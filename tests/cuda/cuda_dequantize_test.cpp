// Weights from codes on the device beside those that the host makes, bit for bit, and the memory
// that they take. (The host's are held to their definition in tests/unit/grid_test.)
#include <string>
#include <tuple>
#include <vector>

#include "backend/cuda/dequantize.hpp"
#include "cuda/cuda_support.hpp"
#include "support/scalar_options.hpp"

#include "quip/backend/device_work.hpp"
#include "quip/core/error.hpp"
#include "quip/core/rng.hpp"
#include "quip/quant/code/dequantize.hpp"

namespace quip::cuda_dequantize_test {
namespace {

struct Grid {
  const char* name;
  GridKind kind;
  index_t group_size;
  bool symmetric;
};

struct Shape {
  index_t rows;
  index_t cols;
};

/// Returns the least shape from this one on that the transform suits.
Shape suited(TransformKind transform, Shape shape) {
  return {padded(transform, shape.rows), padded(transform, shape.cols)};
}

/// A layer of random codes.
QuantizedLinear random_layer(Shape shape, int bits, TransformKind transform, const Grid& grid,
                             bool rescale) {
  QuantizedLinear layer;
  layer.rows = shape.rows;
  layer.cols = shape.cols;
  layer.bits = bits;
  layer.grid = grid.kind;
  layer.transform = transform;
  layer.group_size = grid.group_size;
  layer.symmetric = grid.symmetric;
  layer.seed_u = 11;
  layer.seed_v = 12;
  const RandomStream random(5);
  std::vector<std::uint8_t> codes(at(shape.cols));
  layer.rescaled = layer.output_scaled = rescale;
  visit_parts([](const Part& part, auto& elements) { elements.resize(at(part.count())); }, layer);
  for (index_t i = 0; i < shape.rows; ++i) {
    for (index_t j = 0; j < shape.cols; ++j) {
      codes[at(j)] = static_cast<std::uint8_t>(
          random.bits(static_cast<std::uint64_t>(i * shape.cols + j)) & ((1U << bits) - 1U));
    }
    pack_row(codes.data(), shape.cols, bits, layer.codes.data() + i * layer.row_bytes());
  }
  for (std::size_t i = 0; i < layer.scale.size(); ++i) {
    layer.scale[i] = 0.1F + 0.001F * static_cast<float>(i % 97);
  }
  for (std::size_t i = 0; i < layer.zero.size(); ++i) {
    layer.zero[i] = static_cast<std::uint8_t>(i % (1U << bits));
  }
  for (std::size_t j = 0; j < layer.rescale.size(); ++j) {
    layer.rescale[j] = 0.7F + 0.01F * static_cast<float>(j % 53);
  }
  for (std::size_t i = 0; i < layer.output_scale.size(); ++i) {
    layer.output_scale[i] = static_cast<std::uint16_t>(0x3800 + i % 1024);  // from ½ to 1
  }
  validate(layer, "of the test");
  return layer;
}

constexpr Grid incoherent{"incoherent", GridKind::incoherent, 0, false};

class CudaDequantize : public CudaTest,
                       public testing::WithParamInterface<std::tuple<TransformKind, Grid>> {
 protected:
  void expect_the_hosts(const QuantizedLinear& layer) {
    const Matrix<float> host = dequantize(layer);
    in_every_order([&] {
      const auto device = cuda_->dequantize(layer);
      ASSERT_TRUE(device);
      expect_same_bits(on_host(device->cview()), host);
    });
  }
};

std::string name_of(const testing::TestParamInfo<std::tuple<TransformKind, Grid>>& instance) {
  std::string name =
      to_string(std::get<0>(instance.param)) + "_" + std::get<1>(instance.param).name;
  for (char& c : name) c = c == '-' ? '_' : c;
  return name;
}

TEST_P(CudaDequantize, HasTheHostsBits) {
  const auto& [transform, grid] = GetParam();
  // Rows of codes that end within a byte; tiles that end within the matrix.
  std::vector<Shape> shapes{{52, 76}, {70, 129}};
  if (transform == TransformKind::hadamard) {  // a factor besides on one side, or on none
    shapes.insert(shapes.end(), {{36, 64}, {128, 90}, {64, 128}});
  }
  for (Shape shape : shapes) {
    shape = suited(transform, shape);
    for (const int bits : {2, 3, 4}) {
      SCOPED_TRACE(std::to_string(shape.rows) + " x " + std::to_string(shape.cols) + ", " +
                   std::to_string(bits) + " bits");
      expect_the_hosts(random_layer(shape, bits, transform, grid, bits == 3));
      if (HasFatalFailure()) return;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Kinds, CudaDequantize,
    testing::Combine(testing::Values(TransformKind::none, TransformKind::kronecker,
                                     TransformKind::kronecker_blocked,
                                     TransformKind::kronecker_nopermute, TransformKind::hadamard,
                                     TransformKind::hadamard_128, TransformKind::dense),
                     testing::Values(incoherent, Grid{"minmax", GridKind::minmax, 0, false},
                                     Grid{"groups", GridKind::minmax, 24, false},
                                     Grid{"symmetric", GridKind::minmax, 0, true},
                                     Grid{"symmetric_groups", GridKind::minmax, 32, true})),
    name_of);

class CudaDequantizeSizes : public CudaDequantize {};

TEST_P(CudaDequantizeSizes, HasTheHostsBits) {
  const auto& [transform, grid] = GetParam();
  // U in several passes of Walsh–Hadamard; V in one, and too long for that; nearly nothing.
  std::vector<Shape> shapes{{1, 1}, {1, 70}, {3, 1}, {2, 2048}, {2, 1536}};
  if (transform == TransformKind::hadamard) {
    shapes.insert(shapes.end(), {{2048, 3}, {3072, 2}, {1, 65536}, {1, 61440}});
  }
  if (transform == TransformKind::hadamard_128) {  // more blocks than a block of threads takes
    shapes = {{128, 33 * 128}, {3 * 128, 128}};
  }
  for (const Shape shape : shapes) {
    SCOPED_TRACE(std::to_string(shape.rows) + " x " + std::to_string(shape.cols));
    expect_the_hosts(random_layer(shape, 8, transform, grid, true));
    if (HasFatalFailure()) return;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Sizes, CudaDequantizeSizes,
    testing::Combine(testing::Values(TransformKind::none, TransformKind::kronecker,
                                     TransformKind::kronecker_blocked, TransformKind::hadamard,
                                     TransformKind::hadamard_128),
                     testing::Values(incoherent)),
    name_of);

TEST_F(CudaDequantize, CutsPaddingOff) {
  QuantizedLinear layer =
      random_layer({256, 128}, 3, TransformKind::hadamard_128, incoherent, true);
  layer.row_padding = 100;
  layer.col_padding = 27;
  expect_the_hosts(layer);
}

#ifdef QUIP_CUDA_ON_HOST
// The promised bytes are enough, and not one is too much.
TEST_P(CudaDequantize, TakesTheMemoryThatItNames) {
  const auto& [transform, grid] = GetParam();
  cuda::Context context(0, 1, 1);
  for (Shape shape : {Shape{52, 76}, {64, 90}}) {
    shape = suited(transform, shape);
    for (const bool rescale : {false, true}) {
      LayerOptions options = scalar_options();
      options.bits = 3;
      options.transform = transform;
      options.grid_kind = grid.kind;
      options.group_size = grid.group_size;
      options.symmetric = grid.symmetric;
      options.rescaling = rescale;
      options.output_scaling = rescale;
      const auto layer = random_layer(shape, options.bits, transform, grid, rescale);
      const auto out = context.buffer<float>(shape.rows * shape.cols, "weights");
      const auto room = static_cast<std::size_t>(dequantize_bytes(shape.rows, shape.cols, options));
      cuda_on_host::set_memory(cuda_on_host::memory_in_use() + room);
      EXPECT_NO_THROW(cuda::dequantize(context, layer, out.view(shape.rows, shape.cols)));
      cuda_on_host::set_memory(cuda_on_host::memory_in_use() + room - 1);
      EXPECT_THROW(cuda::dequantize(context, layer, out.view(shape.rows, shape.cols)), Error);
      cuda_on_host::set_memory(std::size_t{8} << 30);
    }
  }
}
#endif

}  // namespace
}  // namespace quip::cuda_dequantize_test

#include "dequantize.hpp"

#include <algorithm>
#include <utility>
#include <vector>

#include "backend/cuda/kernels/quant_kernels.hpp"
#include "backend/cuda/kernels/trellis_kernels.hpp"
#include "copies.hpp"
#include "decode_columns.hpp"
#include "transform_on_device.hpp"

#include "quip/core/dtype.hpp"
#include "quip/core/usage.hpp"
#include "quip/quant/code/dequantize.hpp"
#include "quip/quant/transform/transform.hpp"

namespace quip::cuda {
namespace {

/// The elements from row to row and from column to column.
struct Strides {
  index_t row = 0;
  index_t col = 0;
  bool operator==(const Strides&) const = default;
};

/// One kernel on the way from codes to weights, with the layouts of its input and output.
struct Link {
  const TransformPass<float>* pass;
  index_t cols;  ///< columns of its operand
  Strides in;
  Strides out;

  [[nodiscard]] bool in_place() const { return pass->in_place() && in == out; }
};

/// Returns V's layout: V acts on w' transposed, [cols × rows]. Walsh–Hadamard transforms run along
/// the final rows of W, small products across them, so that permutations move runs of elements.
Layout layout_for(TransformKind kind) {
  const bool walsh = kind == TransformKind::hadamard || kind == TransformKind::hadamard_128;
  return walsh ? Layout::down : Layout::across;
}

/// Returns the kernels of Vᵀ w'ᵀ and, on its transpose [rows × cols], of Uᵀ.
std::vector<Link> links(const TransformOnDevice<float>& v, const TransformOnDevice<float>& u,
                        const QuantizedLinear& layer) {
  const bool down = layout_for(layer.transform) == Layout::down;
  const Strides between = down ? Strides{1, layer.cols} : Strides{layer.rows, 1};
  const Strides weights{layer.cols, 1};
  std::vector<Link> all;
  for (const auto& pass : v.passes()) all.push_back({&pass, layer.rows, between, between});
  Strides in{between.col, between.row};
  for (const auto& pass : u.passes()) {
    all.push_back({&pass, layer.cols, in, weights});
    in = weights;
  }
  return all;
}

/// Runs all links, from codes into `out`: buffers alternate so that the last one writes there.
void run(Context& context, const CodeMatrix& codes, const std::vector<Link>& chain,
         const float* divisor, TensorView out) {
  const auto moves = std::count_if(chain.begin() + 1, chain.end(),
                                   [](const Link& link) { return !link.in_place(); });
  const auto spare = context.buffer<float>(moves > 0 ? out.size() : 0, "weights being dequantized");
  float* here = moves % 2 == 0 ? out.data : spare.data();
  float* there = moves % 2 == 0 ? spare.data() : out.data;
  for (const Link& link : chain) {
    const cudaStream_t stream = context.lane().get();
    const bool first = &link == &chain.front();
    const float* by = &link == &chain.back() ? divisor : nullptr;
    const StridedMatrix<const float> from{here, link.in.row, link.in.col};
    if (!first && !link.in_place()) std::swap(here, there);
    const StridedMatrix<float> to{here, link.out.row, link.out.col};
    if (first) {
      link.pass->run(stream, codes, to, link.cols, by);
    } else {
      link.pass->run(stream, from, to, link.cols, by);
    }
  }
}

DeviceBuffer<float> scales_on_device(Context& context, const std::vector<std::uint16_t>& halves) {
  std::vector<float> scales(halves.size());
  std::transform(halves.begin(), halves.end(), scales.begin(), from_f16);
  return to_device(context, std::span<const float>(scales), "scales");
}

void decode(Context& context, const QuantizedLinear& layer, TensorView out) {
  const auto codes = to_device(context, std::span<const std::uint8_t>(layer.codes), "packed codes");
  const auto values =
      to_device<float>(context, trellis::codebook_values(layer.trellis), "values of states");
  const auto input_scale = scales_on_device(context, layer.suh);
  const auto output_scale = scales_on_device(context, layer.svh);
  decode_trellis(context.lane().get(),
                 {.inputs = layer.cols,
                  .bits = layer.bits,
                  .codes = reinterpret_cast<const std::uint16_t*>(codes.data()),
                  .values = values.data(),
                  .input_scale = input_scale.data(),
                  .output_scale = output_scale.data()},
                 out);
}

/// Writes all but the output scales.
void transform_back(Context& context, const QuantizedLinear& layer, TensorView out) {
  const auto packed =
      to_device(context, std::span<const std::uint8_t>(layer.codes), "packed codes");
  const CodeGrids grids(context, layer);
  const CodeMatrix codes = grids.matrix(packed.data(), layer.row_bytes());
  const auto rescale = to_device(context, std::span<const float>(layer.rescale), "D̃");
  const LayerTransforms transforms =
      make_transforms(layer.transform, layer.rows, layer.cols, layer.seed_u, layer.seed_v);
  const TransformOnDevice<float> v(context, *transforms.v, Direction::transposed,
                                   layout_for(layer.transform));
  const TransformOnDevice<float> u(context, *transforms.u, Direction::transposed);
  const std::vector<Link> chain = links(v, u, layer);
  if (chain.empty()) {
    const StepOutput<float> weights{{out.data, layer.cols, 1}, nullptr, nullptr, rescale.data()};
    return unpack_codes(context.lane().get(), codes, weights, layer.rows, layer.cols);
  }
  run(context, codes, chain, rescale.data(), out);
}

}  // namespace

void dequantize(Context& context, const QuantizedLinear& layer, TensorView out) {
  UsageMeter::current().add_flops(
      transform_rows_flops(layer.transform, layer.rows, layer.cols, layer.rows));
  if (layer.codebook == CodebookKind::trellis) return decode(context, layer, out);
  const auto output_scale = scales_on_device(context, layer.output_scale);
  const auto padded = context.buffer<float>(layer.padded() ? layer.rows * layer.cols : 0,
                                            "weights with their padding");
  transform_back(context, layer, layer.padded() ? padded.view(layer.rows, layer.cols) : out);
  if (layer.padded()) {
    QUIP_CUDA(cudaMemcpy2DAsync(out.data, at(out.cols) * sizeof(float), padded.data(),
                                at(layer.cols) * sizeof(float), at(out.cols) * sizeof(float),
                                at(out.rows), cudaMemcpyDeviceToDevice, context.lane().get()));
  }
  if (output_scale.size() > 0) scale_rows(context.lane().get(), out, output_scale.data());
}

}  // namespace quip::cuda

#include "trellis_on_device.hpp"

#include <algorithm>

#include "backend/cuda/kernels/trellis_kernels.hpp"
#include "backend/cuda/kernels/trellis_shape.hpp"
#include "copies.hpp"
#include "quant/trellis/scaling.hpp"

namespace quip::cuda {
namespace {

/// Returns how many blocks search at once: one on each processor, or fewer where memory is short.
index_t blocks_at_once(Context& context, int bits) {
  const auto fit =
      static_cast<index_t>(context.device().available() / 2) / search_scratch_bytes(bits);
  const index_t most = std::min<index_t>(context.device().processors(), most_search_blocks);
  return std::clamp<index_t>(fit, 1, most);
}

class TileCoderOnDevice final : public TileCoder {
 public:
  TileCoderOnDevice(Context& context, trellis::Codebook codebook, int bits)
      : TileCoderOnDevice(context, codebook, bits, trellis::scaling(codebook, bits)) {}

  void code(const TileColumns& columns) const override {
    search_tiles(context_.lane().get(), bits_, tables_, columns, scratch_.data(), blocks_);
  }

 private:
  TileCoderOnDevice(Context& context, trellis::Codebook codebook, int bits,
                    const trellis::Scaling& scaling)
      : context_(context),
        bits_(bits),
        pairs_(to_device<std::uint32_t>(context, search_table(bits, scaling.values),
                                        "values of states")),
        integers_(to_device<std::int16_t>(context, scaling.values, "values of states")),
        values_(to_device<float>(context, trellis::codebook_values(codebook), "values of states")),
        blocks_(blocks_at_once(context, bits)),
        scratch_(context.buffer<std::byte>(blocks_ * search_scratch_bytes(bits),
                                           "the search for states")),
        tables_{pairs_.data(), integers_.data(), values_.data(), scaling.unit, scaling.limit} {}

  Context& context_;
  int bits_;
  DeviceBuffer<std::uint32_t> pairs_;
  DeviceBuffer<std::int16_t> integers_;
  DeviceBuffer<float> values_;
  index_t blocks_;
  DeviceBuffer<std::byte> scratch_;
  SearchTables tables_;
};

}  // namespace

std::unique_ptr<TileCoder> tile_coder_on_device(Context& context, trellis::Codebook codebook,
                                                int bits) {
  return std::make_unique<TileCoderOnDevice>(context, codebook, bits);
}

}  // namespace quip::cuda

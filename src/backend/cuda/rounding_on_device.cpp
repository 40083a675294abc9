#include "rounding_on_device.hpp"

#include <utility>

#include "copies.hpp"
#include "trellis_on_device.hpp"

namespace quip::cuda {
namespace {

class PanelsOnDevice final : public PanelSource {
 public:
  PanelsOnDevice(Context& context, const LowerPanels& host)
      : shape_(LowerPanels::outline(host.n)),
        panels_(context.buffer<float>(host.panel_offset(host.blocks()), "the factor of a Hessian")),
        diagonal_(to_device(context, std::span<const double>(host.diagonal), "a diagonal")) {
    host.for_each_panel(false, [&](index_t b, MatrixView<const float> panel) {
      upload<float>(context.lane(), panel, place(b));
    });
  }

  void start() override {}
  [[nodiscard]] MatrixView<const float> panel(index_t b) override { return place(b); }
  [[nodiscard]] const double* diagonal() const override { return diagonal_.data(); }

 private:
  [[nodiscard]] MatrixView<float> place(index_t b) const {
    return {panels_.data() + shape_.panel_offset(b), shape_.n - shape_.first_column(b),
            shape_.width(b)};
  }

  LowerPanels shape_;
  DeviceBuffer<float> panels_;
  DeviceBuffer<double> diagonal_;
};

LowerPanels panels_on_device(Context& context, const LowerPanels& host) {
  LowerPanels panels = LowerPanels::outline(host.n);
  if (!host.empty()) panels.source = std::make_unique<PanelsOnDevice>(context, host);
  return panels;
}

}  // namespace

std::shared_ptr<void> RoundingOnDevice::allocate(std::size_t bytes, std::string_view what) const {
  auto room = std::make_shared<DeviceBuffer<std::byte>>(
      context_.buffer<std::byte>(static_cast<index_t>(bytes), what));
  return {room, room->data()};
}

void RoundingOnDevice::to_here(const void* host, void* here, std::size_t bytes) const {
  cuda::upload<std::byte>(context_.lane(), {static_cast<const std::byte*>(host), bytes},
                          static_cast<std::byte*>(here));
}
void RoundingOnDevice::to_host(const void* here, void* host, std::size_t bytes) const {
  cuda::download<std::byte>(context_.lane(), static_cast<const std::byte*>(here),
                            {static_cast<std::byte*>(host), bytes});
}
void RoundingOnDevice::clear(void* here, std::size_t bytes) const {
  if (bytes > 0) QUIP_CUDA(cudaMemsetAsync(here, 0, bytes, stream()));
}
void RoundingOnDevice::copy(MatrixView<const float> x, MatrixView<float> y) const {
  QUIP_CUDA(cudaMemcpyAsync(y.data, x.data, at(x.size()) * sizeof(float), cudaMemcpyDeviceToDevice,
                            stream()));
}

std::unique_ptr<TileCoder> RoundingOnDevice::tile_coder(trellis::Codebook codebook,
                                                        int bits) const {
  return tile_coder_on_device(context_, codebook, bits);
}

PreparedLayer layer_on_device(Context& context, const PreparedLayer& layer) {
  PreparedLayer there;
  there.factor = panels_on_device(context, layer.factor);
  there.feedback = panels_on_device(context, layer.feedback);
  there.hessian = panels_on_device(context, layer.hessian);
  there.order = layer.order;
  there.added = layer.added;
  there.seed_rounding = layer.seed_rounding;
  return there;
}

}  // namespace quip::cuda

// The CUDA backend: where the operations meet the interface.
#include "quip/backend/cuda_backend.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <memory>
#include <vector>

#include "backend/checks.hpp"
#include "backend/cuda/kernels/kernels.hpp"
#include "backend/cuda/kernels/quant_kernels.hpp"
#include "context.hpp"
#include "copies.hpp"
#include "dequantize.hpp"
#include "hessian.hpp"
#include "nccl_collectives.hpp"
#include "quantizer.hpp"
#include "weight_copies.hpp"

#include "quip/backend/device_work.hpp"
#include "quip/core/error.hpp"

namespace quip {
namespace cuda {
namespace {

constexpr index_t logits_at_once = index_t{64} << 20;  // 256 MiB

/// The state behind tensors, freed with the last of them.
struct Shared {
  Context context;
  WeightCopies copies;
  Shared(int device, int sharers, int lanes) : context(device, sharers, lanes), copies(context) {}
};

class CudaBackend final : public Backend {
 public:
  CudaBackend(int threads, int device, int sharers)
      : shared_(std::make_shared<Shared>(device, sharers, device_lanes(threads))),
        quantizer_(make_quantizer(shared_->context)) {}

  [[nodiscard]] Context& context() const { return shared_->context; }

  [[nodiscard]] std::string describe() const override {
    return "cuda, " + context().device().describe();
  }

  [[nodiscard]] Tensor allocate(index_t rows, index_t cols) override;
  [[nodiscard]] Tensor allocate_samples(index_t rows, index_t cols) override;
  [[nodiscard]] std::optional<BackendMemory> memory() const override {
    const Device& device = context().device();
    const auto bytes = [](std::size_t count) { return static_cast<index_t>(count); };
    return BackendMemory{device.describe(), bytes(device.total()), bytes(device.available()),
                         bytes(device.most_used())};
  }
  void keep_for_work(index_t bytes) override { context().device().keep_for_work(at(bytes)); }
  [[nodiscard]] Tensor adopt(std::shared_ptr<float> host, index_t rows, index_t cols) override;
  [[nodiscard]] ConstTensorView on_host(ConstTensorView x, Matrix<float>& room) override;
  void upload(std::span<const float> host, TensorView device) override;
  void download(ConstTensorView device, std::span<float> host) override;
  void for_each_unit(index_t count, const std::function<void(index_t)>& work) override {
    context().for_each_unit(count, work);
  }

  void linear(ConstTensorView x, ConstTensorView w, ConstTensorView bias, TensorView y) override {
    check_linear(x, w, bias, y);
    if (bias.size() != 0) set_rows(stream(), bias, written(y));
    multiply(x, w, bias.size() != 0, written(y));
  }
  void linear_add(ConstTensorView x, ConstTensorView w, ConstTensorView bias,
                  TensorView y) override {
    check_linear(x, w, bias, y);
    if (bias.size() != 0) add_rows(stream(), bias, written(y));
    multiply(x, w, true, written(y));
  }
  void linear_in_fp32(ConstTensorView x, ConstTensorView w, ConstTensorView bias,
                      TensorView y) override {
    check_linear(x, w, bias, y);
    cuda::linear_in_fp32(stream(), x, w, written(y));
    if (bias.size() != 0) add_rows(stream(), bias, y);
  }
  void rms_norm(ConstTensorView x, const Gain& gain, float epsilon, TensorView y) override {
    require_shape(y, x.rows, x.cols, "rms_norm: y");
    if (gain.values.size() != 0) require_shape(gain.values, 1, x.cols, "rms_norm: gain");
    cuda::rms_norm(stream(), x, gain, epsilon, written(y));
  }
  void layer_norm(ConstTensorView x, ConstTensorView gain, ConstTensorView bias, float epsilon,
                  TensorView y) override {
    require_shape(y, x.rows, x.cols, "layer_norm: y");
    if (gain.size() != 0) require_shape(gain, 1, x.cols, "layer_norm: gain");
    if (bias.size() != 0) require_shape(bias, 1, x.cols, "layer_norm: bias");
    cuda::layer_norm(stream(), x, gain, bias, epsilon, written(y));
  }
  void rope(TensorView x, const RopeShape& shape, ConstTensorView cosine,
            ConstTensorView sine) override {
    check_rope(x, shape, cosine, sine);
    cuda::rope(stream(), written(x), shape, cosine, sine);
  }
  void attention(ConstTensorView q, ConstTensorView k, ConstTensorView v,
                 const AttentionShape& shape, ConstTensorView sinks, TensorView out) override {
    check_attention(q, k, v, shape, sinks, out);
    const std::size_t memory = context().device().shared_memory_of_block();
    if (!attention_fits(memory, shape)) {
      fail(
          "GPU: attention heads of {} channels do not fit in its {} KiB of shared memory; use "
          "--backend cpu",
          std::max(shape.head_dim, shape.values()), memory >> 10);
    }
    cuda::attention(stream(), memory, q, k, v, shape, sinks, written(out));
  }
  void activate(Activation kind, TensorView x) override {
    cuda::activate(stream(), kind, written(x));
  }
  void gated_activate(Activation kind, TensorView gate, ConstTensorView up) override {
    require_shape(up, gate.rows, gate.cols, "gated_activate: up");
    cuda::gated_activate(stream(), kind, written(gate), up);
  }
  void clamped_swiglu(const ClampedSwiglu& shape, TensorView gate, ConstTensorView up) override {
    require_shape(up, gate.rows, gate.cols, "clamped_swiglu: up");
    cuda::clamped_swiglu(stream(), shape, written(gate), up);
  }
  void scale_rows(std::span<const float> factors, TensorView x) override;
  void scale(float factor, TensorView x) override { cuda::scale(stream(), factor, written(x)); }
  void add(ConstTensorView x, TensorView y) override {
    require_shape(x, y.rows, y.cols, "add: x");
    cuda::add(stream(), x, written(y));
  }
  void copy(ConstTensorView x, TensorView y) override;
  void route(ConstTensorView logits, const RouterShape& shape, ConstTensorView correction,
             TensorView routes) override {
    check_route(logits, shape, correction, routes);
    cuda::route(stream(), logits, shape, correction, written(routes));
  }
  void gather_rows(ConstTensorView x, std::span<const index_t> rows, TensorView y) override;
  void scatter_add_rows(ConstTensorView x, std::span<const index_t> rows,
                        std::span<const float> weights, TensorView y) override;
  void log_sum_exp_slice(ConstTensorView x, ConstTensorView w, index_t first_row, float soft_cap,
                         std::span<const std::int32_t> targets, std::span<double> running_max,
                         std::span<double> running_sum, std::span<double> target_logit) override;
  void channel_maximum(ConstTensorView x, std::span<float> maximum) override;
  void accumulate_hessian(ConstTensorView x, std::span<const float> scale,
                          MatrixView<double> sum) override {
    cuda::accumulate_hessian(context(), x, scale, sum);
  }
  void accumulate_hessian_panel(ConstTensorView x, std::span<const float> scale, index_t first,
                                MatrixView<double> sum) override {
    cuda::accumulate_hessian(context(), x.middle_cols(first, x.cols - first),
                             scale.subspan(at(first)), sum);
  }
  void accumulate_cross(ConstTensorView e, std::span<const float> e_scale, ConstTensorView x,
                        std::span<const float> scale, MatrixView<double> sum) override {
    cuda::accumulate_cross(context(), e, e_scale, x, scale, sum);
  }
  [[nodiscard]] Quantizer& quantizer() override { return *quantizer_; }
  [[nodiscard]] std::optional<Tensor> dequantize(const QuantizedLinear& layer) override {
    Tensor weights = allocate(layer.outputs(), layer.inputs());
    cuda::dequantize(context(), layer, weights.view());
    return weights;
  }

 private:
  [[nodiscard]] cudaStream_t stream() const { return context().lane().get(); }

  /// Marks `y` as written: copies of it in bfloat16 are no longer valid.
  TensorView written(TensorView y) const {
    if (y.size() != 0) shared_->copies.forget(y.data, y.data + (y.rows - 1) * y.ld + y.cols);
    return y;
  }
  static void check_linear(ConstTensorView x, ConstTensorView w, ConstTensorView bias,
                           TensorView y) {
    require_shape(w, w.rows, x.cols, "linear: w");
    require_shape(y, x.rows, w.rows, "linear: y");
    if (bias.size() != 0) require_shape(bias, 1, w.rows, "bias");
  }
  void multiply(ConstTensorView x, ConstTensorView w, bool add, TensorView y) const;
  [[nodiscard]] static std::size_t bytes_of(index_t rows, index_t cols) {
    return at(std::max<index_t>(rows * cols, 1)) * sizeof(float);
  }
  [[nodiscard]] Tensor make_tensor(index_t rows, index_t cols, Device::Use use);

  std::shared_ptr<Shared> shared_;
  std::unique_ptr<Quantizer> quantizer_;
};

Tensor CudaBackend::allocate(index_t rows, index_t cols) {
  check_size(rows, cols);
  return make_tensor(rows, cols, Device::Use::work);
}

/// Falls back to page-locked host memory, which kernels read and write over the bus: every
/// operation streams through the rows of a sample once.
Tensor CudaBackend::allocate_samples(index_t rows, index_t cols) {
  check_size(rows, cols);
  const std::size_t bytes = bytes_of(rows, cols);
  if (context().device().has_room_for_samples(bytes)) {
    return make_tensor(rows, cols, Device::Use::samples);
  }
  auto memory = std::make_shared<PinnedBuffer>(bytes);
  auto* data = reinterpret_cast<float*>(memory->data());
  const auto free = [shared = shared_, owner = std::move(memory)](float* /*data*/) mutable {
    shared->context.lane().stream.synchronize();  // it may still be in use
    owner.reset();
  };
  return {Tensor::Storage(data, free), rows, cols};
}

Tensor CudaBackend::make_tensor(index_t rows, index_t cols, Device::Use use) {
  const std::size_t bytes = bytes_of(rows, cols);
  const std::string what = fmt::format("a [{} × {}] matrix", rows, cols);
  void* memory = context().device().allocate(bytes, what, context().lane().stream, use);
  const auto free = [shared = shared_, bytes, use](float* data) {
    shared->copies.forget(data, data + bytes / sizeof(float));
    shared->context.device().free(data, bytes, shared->context.lane().get(), use);
  };
  return {Tensor::Storage(static_cast<float*>(memory), free), rows, cols};
}

Tensor CudaBackend::adopt(std::shared_ptr<float> host, index_t rows, index_t cols) {
  Tensor tensor = allocate(rows, cols);
  upload({host.get(), at(rows * cols)}, tensor.view());
  return tensor;
}

ConstTensorView CudaBackend::on_host(ConstTensorView x, Matrix<float>& room) {
  room = Matrix<float>(x.rows, x.cols);
  download(x, room.span());
  return room.cview();
}

void CudaBackend::upload(std::span<const float> host, TensorView device) {
  check_copy(static_cast<index_t>(host.size()), device);
  if (host.empty()) return;
  written(device);
  cuda::upload<float>(context().lane(), ConstTensorView(host.data(), device.rows, device.cols),
                      device);
}

void CudaBackend::download(ConstTensorView device, std::span<float> host) {
  check_copy(static_cast<index_t>(host.size()), device);
  cuda::download<float>(context().lane(), device,
                        TensorView(host.data(), device.rows, device.cols));
}

void CudaBackend::copy(ConstTensorView x, TensorView y) {
  require_shape(x, y.rows, y.cols, "copy: x");
  if (y.size() == 0) return;
  written(y);
  QUIP_CUDA(cudaMemcpy2DAsync(y.data, at(y.ld) * sizeof(float), x.data, at(x.ld) * sizeof(float),
                              at(y.cols) * sizeof(float), at(y.rows), cudaMemcpyDeviceToDevice,
                              stream()));
}

void CudaBackend::gather_rows(ConstTensorView x, std::span<const index_t> rows, TensorView y) {
  check_rows(y, rows, x);
  if (rows.empty()) return;
  const auto order = to_device(context(), rows, "rows of an expert");
  cuda::gather_rows(stream(), x, order.data(), written(y));
}

void CudaBackend::scatter_add_rows(ConstTensorView x, std::span<const index_t> rows,
                                   std::span<const float> weights, TensorView y) {
  check_rows(x, rows, y);
  if (rows.empty()) return;
  const auto order = to_device(context(), rows, "rows of an expert");
  const auto factors = to_device(context(), weights, "weights of an expert");
  cuda::scatter_add_rows(stream(), x, order.data(), factors.data(), written(y));
}

void CudaBackend::scale_rows(std::span<const float> factors, TensorView x) {
  check_factors(factors, x);
  if (x.size() == 0) return;
  const auto weights = to_device(context(), factors, "factors of rows");
  cuda::scale_rows(stream(), written(x), weights.data());
}

void CudaBackend::multiply(ConstTensorView x, ConstTensorView w, bool add, TensorView y) const {
  if (y.size() == 0) return;
  const MatrixView<const __nv_bfloat16> weights = shared_->copies.of(w);
  const index_t ld = bf16_ld(x.cols);
  const auto inputs = context().buffer<__nv_bfloat16>(x.rows * ld, "activations in bfloat16");
  const MatrixView<__nv_bfloat16> rounded(inputs.data(), x.rows, x.cols, ld);
  to_bf16(stream(), x, rounded);
  context().lane().matmul.multiply(rounded, weights, add, y);
}

void CudaBackend::log_sum_exp_slice(ConstTensorView x, ConstTensorView w, index_t first_row,
                                    float soft_cap, std::span<const std::int32_t> targets,
                                    std::span<double> running_max, std::span<double> running_sum,
                                    std::span<double> target_logit) {
  check_log_sum_exp(x, w, targets, running_max, running_sum, target_logit);
  if (x.rows == 0 || w.rows == 0) return;
  Lane& lane = context().lane();
  const index_t chunk = std::clamp<index_t>(logits_at_once / w.rows, 1, x.rows);
  const auto logits = context().buffer<float>(chunk * w.rows, "logits");
  const auto wanted = to_device(context(), targets, "target tokens");
  const auto reduced = context().buffer<RowExponentials>(x.rows, "sums of exponentials");
  for (index_t first = 0; first < x.rows; first += chunk) {
    const TensorView part = logits.view(std::min(chunk, x.rows - first), w.rows);
    multiply(x.middle_rows(first, part.rows), w, false, part);
    if (soft_cap > 0) cap_softly(lane.get(), soft_cap, part);
    sum_exponentials(lane.get(), part, wanted.data() + first, first_row, reduced.data() + first);
  }
  std::vector<RowExponentials> rows(targets.size());
  cuda::download<RowExponentials>(lane, reduced.data(), rows);
  for (std::size_t t = 0; t < rows.size(); ++t) {
    const index_t target = targets[t] - first_row;
    if (target >= 0 && target < w.rows) target_logit[t] = rows[t].target;
    // Σ exp(l − m) over both parts, with m the larger maximum
    const double maximum = std::max<double>(running_max[t], rows[t].maximum);
    running_sum[t] = running_sum[t] * std::exp(running_max[t] - maximum) +
                     rows[t].sum * std::exp(rows[t].maximum - maximum);
    running_max[t] = maximum;
  }
}

void CudaBackend::channel_maximum(ConstTensorView x, std::span<float> maximum) {
  check_channel_maximum(x, maximum);
  if (x.size() == 0) return;
  Lane& lane = context().lane();
  std::vector<std::int32_t> host(maximum.size());
  std::transform(maximum.begin(), maximum.end(), host.begin(),
                 [](float value) { return std::bit_cast<std::int32_t>(value); });
  const auto bits = to_device(context(), std::span<const std::int32_t>(host), "maxima of channels");
  cuda::channel_maximum(lane.get(), x, bits.data());
  cuda::download<std::int32_t>(lane, bits.data(), host);
  constexpr float infinity = std::numeric_limits<float>::infinity();
  std::transform(host.begin(), host.end(), maximum.begin(), [](std::int32_t value) {
    const auto magnitude = std::bit_cast<float>(value);
    return magnitude <= infinity ? magnitude : infinity;
  });
}

}  // namespace
}  // namespace cuda

bool cuda_is_built() { return true; }

int cuda_device_count() {
  int count = 0;
  // Without a driver this is an error, and there is no device.
  if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
  static_cast<void>(cudaGetLastError());
  return 0;
}

std::unique_ptr<Backend> make_cuda_backend(int threads, DeviceTurn turn) {
  const int devices = cuda_device_count();
  if (devices == 0) {
    fail("--backend cuda: no GPU, or no driver for one, on this node; use cpu or auto");
  }
  const int sharers = (turn.ranks + devices - 1) / devices;
  return std::make_unique<cuda::CudaBackend>(threads, turn.rank % devices, sharers);
}

std::unique_ptr<Collectives> make_device_collectives(Backend& backend, Collectives& host,
                                                     double timeout) {
  const auto* cuda = dynamic_cast<cuda::CudaBackend*>(&backend);
  return cuda != nullptr ? cuda::make_nccl_collectives(cuda->context(), host, timeout) : nullptr;
}

}  // namespace quip

// The CPU backend: where the operations meet the interface.
#include "quip/backend/cpu_backend.hpp"

#include <algorithm>
#include <new>

#include "backend/checks.hpp"
#include "backend/units.hpp"
#include "hessian.hpp"
#include "operations.hpp"

#include "quip/core/error.hpp"
#include "quip/linalg/blas.hpp"

namespace quip {
namespace {

class CpuBackend final : public Backend {
 public:
  CpuBackend(int threads, HessianKernel kernel) : threads_(threads), kernel_(kernel) {
    if (threads < 1) fail("the CPU backend needs at least one thread, not {}", threads);
    if (kernel_ == HessianKernel::best) kernel_ = cpu::best_hessian_kernel();
    if (!is_supported(kernel_)) {
      fail("this processor cannot run the Hessian kernel {}", to_string(kernel_));
    }
    use_one_blas_thread();
  }

  [[nodiscard]] std::string describe() const override {
    return fmt::format("cpu, {} thread{}, BLAS kernels {}, Hessian kernel {}", threads_,
                       threads_ == 1 ? "" : "s", blas_kernel_name(), to_string(kernel_));
  }

  [[nodiscard]] Tensor allocate(index_t rows, index_t cols) override;
  [[nodiscard]] Tensor adopt(std::shared_ptr<float> host, index_t rows, index_t cols) override {
    float* data = host.get();
    return {Tensor::Storage(data, [owner = std::move(host)](float*) mutable { owner.reset(); }),
            rows, cols};
  }
  [[nodiscard]] ConstTensorView on_host(ConstTensorView x, Matrix<float>& /*room*/) override {
    return x;
  }
  void upload(std::span<const float> host, TensorView device) override;
  void download(ConstTensorView device, std::span<float> host) override;
  void for_each_unit(index_t count, const std::function<void(index_t)>& work) override;

  void linear(ConstTensorView x, ConstTensorView w, ConstTensorView bias, TensorView y) override {
    // Sets the bias first, so that the product is added to it where it is written anyway.
    if (bias.size() != 0) cpu::set_rows(bias, y);
    gemm(Transpose::no, Transpose::yes, 1.0F, x, w, bias.size() != 0 ? 1.0F : 0.0F, y);
  }
  void linear_add(ConstTensorView x, ConstTensorView w, ConstTensorView bias,
                  TensorView y) override {
    if (bias.size() != 0) cpu::add_rows(bias, y);
    gemm(Transpose::no, Transpose::yes, 1.0F, x, w, 1.0F, y);
  }
  void rms_norm(ConstTensorView x, const Gain& gain, float epsilon, TensorView y) override {
    cpu::rms_norm(x, gain, epsilon, y);
  }
  void layer_norm(ConstTensorView x, ConstTensorView gain, ConstTensorView bias, float epsilon,
                  TensorView y) override {
    cpu::layer_norm(x, gain, bias, epsilon, y);
  }
  void rope(TensorView x, const RopeShape& shape, ConstTensorView cosine,
            ConstTensorView sine) override {
    cpu::rope(x, shape, cosine, sine);
  }
  void attention(ConstTensorView q, ConstTensorView k, ConstTensorView v,
                 const AttentionShape& shape, ConstTensorView sinks, TensorView out) override {
    cpu::attention(q, k, v, shape, sinks, out);
  }
  void activate(Activation kind, TensorView x) override { cpu::activate(kind, x); }
  void gated_activate(Activation kind, TensorView gate, ConstTensorView up) override {
    cpu::gated_activate(kind, gate, up);
  }
  void clamped_swiglu(const ClampedSwiglu& shape, TensorView gate, ConstTensorView up) override {
    cpu::clamped_swiglu(shape, gate, up);
  }
  void scale_rows(std::span<const float> factors, TensorView x) override {
    cpu::scale_rows(factors, x);
  }
  void scale(float factor, TensorView x) override { cpu::scale(factor, x); }
  void add(ConstTensorView x, TensorView y) override { cpu::add(x, y); }
  void copy(ConstTensorView x, TensorView y) override { cpu::copy(x, y); }
  void route(ConstTensorView logits, const RouterShape& shape, ConstTensorView correction,
             TensorView routes) override {
    cpu::route(logits, shape, correction, routes);
  }
  void gather_rows(ConstTensorView x, std::span<const index_t> rows, TensorView y) override {
    cpu::gather_rows(x, rows, y);
  }
  void scatter_add_rows(ConstTensorView x, std::span<const index_t> rows,
                        std::span<const float> weights, TensorView y) override {
    cpu::scatter_add_rows(x, rows, weights, y);
  }
  void log_sum_exp_slice(ConstTensorView x, ConstTensorView w, index_t first_row, float soft_cap,
                         std::span<const std::int32_t> targets, std::span<double> running_max,
                         std::span<double> running_sum, std::span<double> target_logit) override {
    cpu::log_sum_exp_slice(x, w, first_row, soft_cap, targets, running_max, running_sum,
                           target_logit);
  }
  void channel_maximum(ConstTensorView x, std::span<float> maximum) override {
    cpu::channel_maximum(x, maximum);
  }
  void accumulate_hessian(ConstTensorView x, std::span<const float> scale,
                          MatrixView<double> sum) override {
    cpu::accumulate_hessian(kernel_, threads_, x, scale, sum);
  }
  void accumulate_hessian_panel(ConstTensorView x, std::span<const float> scale, index_t first,
                                MatrixView<double> sum) override {
    cpu::accumulate_hessian(kernel_, threads_, x.middle_cols(first, x.cols - first),
                            scale.subspan(at(first)), sum);
  }
  void accumulate_cross(ConstTensorView e, std::span<const float> e_scale, ConstTensorView x,
                        std::span<const float> scale, MatrixView<double> sum) override {
    cpu::accumulate_cross(kernel_, threads_, e, e_scale, x, scale, sum);
  }

 private:
  int threads_;
  HessianKernel kernel_;
};

Tensor CpuBackend::allocate(index_t rows, index_t cols) {
  check_size(rows, cols);
  try {
    // The deleter owns the buffer; releasing the pointer drops it.
    auto buffer = std::make_shared<Buffer<float>>(rows * cols);
    float* data = buffer->data();
    return {Tensor::Storage(data, [owner = std::move(buffer)](float*) mutable { owner.reset(); }),
            rows, cols};
  } catch (const std::bad_alloc&) {
    fail("out of memory: no {:.2f} GiB for a [{} × {}] matrix; use more ranks or nodes",
         static_cast<double>(rows * cols) * sizeof(float) / (1 << 30), rows, cols);
  }
}

void CpuBackend::upload(std::span<const float> host, TensorView device) {
  check_copy(static_cast<index_t>(host.size()), device);
  cpu::copy({host.data(), device.rows, device.cols}, device);
}

void CpuBackend::download(ConstTensorView device, std::span<float> host) {
  check_copy(static_cast<index_t>(host.size()), device);
  cpu::copy(device, {host.data(), device.rows, device.cols});
}

void CpuBackend::for_each_unit(index_t count, const std::function<void(index_t)>& work) {
  run_units(count, threads_, work);
}

}  // namespace

std::unique_ptr<Backend> make_cpu_backend(int threads, HessianKernel kernel) {
  return std::make_unique<CpuBackend>(threads, kernel);
}

std::unique_ptr<Backend> make_cpu_backend(int threads) {
  return make_cpu_backend(threads, HessianKernel::best);
}

}  // namespace quip

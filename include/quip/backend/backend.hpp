// The coarse operations a decoder block needs, once per kind of hardware.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "quip/core/matrix.hpp"

namespace quip {

class Quantizer;
struct QuantizedLinear;

/// fp32 matrices in the memory of a backend (host memory for the CPU). Only the
/// backend that allocated it may follow the pointer.
using TensorView = MatrixView<float>;
using ConstTensorView = MatrixView<const float>;

/// Owning, contiguous, move-only matrix in a backend's memory.
class Tensor {
 public:
  using Storage = std::unique_ptr<float, std::function<void(float*)>>;
  Tensor() = default;
  Tensor(Storage storage, index_t rows, index_t cols)
      : storage_(std::move(storage)), rows_(rows), cols_(cols) {}

  [[nodiscard]] index_t rows() const { return rows_; }
  [[nodiscard]] index_t cols() const { return cols_; }
  [[nodiscard]] bool empty() const { return storage_ == nullptr; }  // true once moved from
  [[nodiscard]] TensorView view() const { return {storage_.get(), rows_, cols_}; }
  [[nodiscard]] ConstTensorView cview() const { return {storage_.get(), rows_, cols_}; }

 private:
  Storage storage_;
  index_t rows_ = 0;
  index_t cols_ = 0;
};

enum class Activation { relu, gelu, gelu_tanh, silu };

/// The factors of a norm, [1 × features], to each of which `plus` is added first; empty: none.
struct Gain {
  ConstTensorView values;
  float plus = 0.0F;
  Gain(ConstTensorView of,
       float added = 0.0F)  // NOLINT(google-explicit-constructor): the usual one
      : values(of), plus(added) {}
};

/// The channels of heads that positions turn, pair by pair.
struct RopeShape {
  index_t heads = 0;
  index_t head_dim = 0;
  index_t first = 0;         ///< of a head's channels that turn
  bool interleaved = false;  ///< neighbours are a pair, instead of channels of the two halves
};

/// Causal self-attention with grouped key/value heads.
struct AttentionShape {
  index_t heads = 0;
  index_t kv_heads = 0;                ///< divides heads
  index_t head_dim = 0;                ///< channels of a query and a key
  index_t value_dim = 0;               ///< those of a value; 0: as many
  float scale = 1.0F;                  ///< multiplies q·k
  std::optional<index_t> window = {};  ///< keys i-window < j ≤ i only (sliding window)
  float soft_cap = 0.0F;               ///< c: scores s become c·tanh(s/c); 0: they stay
  std::optional<index_t> chunk = {};   ///< keys of the query's own chunk of positions only

  [[nodiscard]] index_t values() const { return value_dim > 0 ? value_dim : head_dim; }
};

/// gate·σ(alpha·gate)·(up + 1), of gates up to `limit` and up-projections within ±limit.
struct ClampedSwiglu {
  float alpha = 0.0F;
  float limit = 0.0F;
};

/// What a router makes of its logits.
enum class RouterScores { softmax, sigmoid };

/// The choice of experts for each token: those with the largest scores, which become their weights.
struct RouterShape {
  index_t experts = 0;
  index_t chosen = 0;         ///< experts a token
  bool renormalised = false;  ///< the weights of a token's experts are divided by their sum
  RouterScores scores = RouterScores::softmax;
  index_t groups = 1;         ///< of consecutive experts
  index_t chosen_groups = 1;  ///< only their experts count: those whose two best add up to the most
  float least_sum = 0.0F;     ///< by which weights are divided at least
  float factor = 1.0F;        ///< of all weights
};

/// The memory of a backend that has its own, in bytes, as far as it is this rank's to use.
struct BackendMemory {
  std::string where;  ///< "GPU 0: …"
  index_t total = 0;
  index_t available = 0;
  index_t most_used = 0;  ///< since the start
};

/// A rank among those of its machine, which take the devices there in turn.
struct DeviceTurn {
  int rank = 0;
  int ranks = 1;
};

/// One unit of work (a sample) calls these operations from one thread; units run
/// side by side through `for_each_unit`. Every operation gives the same bits for
/// the same arguments, whatever the number of threads or ranks. All views are
/// in this backend's memory; x is [tokens × features] throughout.
class Backend {
 public:
  Backend() = default;
  Backend(const Backend&) = delete;
  Backend& operator=(const Backend&) = delete;
  virtual ~Backend() = default;

  /// Returns "cpu" or "cuda", with the device's name where there is one.
  [[nodiscard]] virtual std::string describe() const = 0;

  /// Returns uninitialised storage; throws Error naming the size if there is none.
  [[nodiscard]] virtual Tensor allocate(index_t rows, index_t cols) = 0;
  /// Returns storage for the activations of all of a rank's samples: host memory that the device
  /// reads, where its own has no room for them beside `keep_for_work`.
  [[nodiscard]] virtual Tensor allocate_samples(index_t rows, index_t cols) {
    return allocate(rows, cols);
  }
  /// Returns nothing for a backend that works in the host's memory.
  [[nodiscard]] virtual std::optional<BackendMemory> memory() const { return std::nullopt; }
  /// Keeps this many bytes of it for all but allocate_samples.
  virtual void keep_for_work(index_t /*bytes*/) {}
  /// Returns a tensor of the rows that `host` holds. A backend that works in host memory takes it
  /// as it is, to be read only: other processes may share it.
  [[nodiscard]] virtual Tensor adopt(std::shared_ptr<float> host, index_t rows, index_t cols) = 0;
  /// Returns `x` in host memory: `x` itself, or a copy in `room`.
  [[nodiscard]] virtual ConstTensorView on_host(ConstTensorView x, Matrix<float>& room) = 0;
  /// Copies from host to backend; sizes must match.
  virtual void upload(std::span<const float> host, TensorView device) = 0;
  /// Copies from backend to host; sizes must match.
  virtual void download(ConstTensorView device, std::span<float> host) = 0;

  /// Runs `work(i)` for 0 ≤ i < count, units in parallel and in any order. The
  /// exception of the lowest failing unit is rethrown after all have ended.
  virtual void for_each_unit(index_t count, const std::function<void(index_t)>& work) = 0;

  /// y = x Wᵀ (+ bias). x [T × in], w [out × in], bias [1 × out] or empty, y [T × out].
  virtual void linear(ConstTensorView x, ConstTensorView w, ConstTensorView bias, TensorView y) = 0;
  /// y += x Wᵀ (+ bias): the residual connection in one pass.
  virtual void linear_add(ConstTensorView x, ConstTensorView w, ConstTensorView bias,
                          TensorView y) = 0;
  /// The same as `linear`, with operands in fp32 on every backend: for few outputs on which choices
  /// depend.
  virtual void linear_in_fp32(ConstTensorView x, ConstTensorView w, ConstTensorView bias,
                              TensorView y) {
    linear(x, w, bias, y);
  }
  /// y = x / rms(x) · gain, row by row. y may be x.
  virtual void rms_norm(ConstTensorView x, const Gain& gain, float epsilon, TensorView y) = 0;
  /// y = (x − mean) / std · gain + bias; gain and bias [1 × features] or empty. y may be x.
  virtual void layer_norm(ConstTensorView x, ConstTensorView gain, ConstTensorView bias,
                          float epsilon, TensorView y) = 0;
  /// Rotates, in place, each head's pairs (i, i + pairs), or (2i, 2i + 1), counted from channel
  /// `first`, by position, i < pairs; all other channels stay. Row t uses row t of `cosine` and
  /// `sine` [length × pairs].
  virtual void rope(TensorView x, const RopeShape& shape, ConstTensorView cosine,
                    ConstTensorView sine) = 0;
  /// out = softmax(scale · q kᵀ + causal mask) v per head. q [T × heads·head_dim],
  /// k [T × kv_heads·head_dim], v [T × kv_heads·values], out [T × heads·values]. `sinks`
  /// [1 × heads], or empty: a score of each head that takes part in the softmax, with a value of 0.
  virtual void attention(ConstTensorView q, ConstTensorView k, ConstTensorView v,
                         const AttentionShape& shape, ConstTensorView sinks, TensorView out) = 0;
  /// x = f(x).
  virtual void activate(Activation kind, TensorView x) = 0;
  /// gate = f(gate) · up.
  virtual void gated_activate(Activation kind, TensorView gate, ConstTensorView up) = 0;
  /// gate = the activation of both.
  virtual void clamped_swiglu(const ClampedSwiglu& shape, TensorView gate, ConstTensorView up) = 0;
  /// x = factor · x.
  virtual void scale(float factor, TensorView x) = 0;
  /// Row i of x = factors[i] · row i of x.
  virtual void scale_rows(std::span<const float> factors, TensorView x) = 0;
  /// y += x.
  virtual void add(ConstTensorView x, TensorView y) = 0;
  virtual void copy(ConstTensorView x, TensorView y) = 0;

  /// Chooses experts by logits [T × experts]. A row of `routes` [T × 2·chosen] gets the numbers of
  /// a token's experts, the likeliest first (of equals that of the lower number), and then their
  /// weights. `correction` [1 × experts], or empty: is added to scores for the choice only.
  virtual void route(ConstTensorView logits, const RouterShape& shape, ConstTensorView correction,
                     TensorView routes) = 0;
  /// Row i of y = row rows[i] of x.
  virtual void gather_rows(ConstTensorView x, std::span<const index_t> rows, TensorView y) = 0;
  /// Row rows[i] of y += weights[i] · row i of x; no row of y twice.
  virtual void scatter_add_rows(ConstTensorView x, std::span<const index_t> rows,
                                std::span<const float> weights, TensorView y) = 0;

  /// Adds one slice of the vocabulary to an online log-sum-exp: logits = x Wᵀ with w [slice ×
  /// features], each c·tanh(logit/c) with c = `soft_cap` unless that is 0; updates per row the
  /// running maximum and sum of exponentials (host, fp64), and stores the logit of `targets[t] -
  /// first_row` where that lies in the slice. Maximum and target come from the same logits: after
  /// the last slice they are equal exactly where no token beats the target.
  virtual void log_sum_exp_slice(ConstTensorView x, ConstTensorView w, index_t first_row,
                                 float soft_cap, std::span<const std::int32_t> targets,
                                 std::span<double> running_max, std::span<double> running_sum,
                                 std::span<double> target_logit) = 0;

  /// maximum[j] = max(maximum[j], max_t |x[t, j]|), host result; a NaN or an
  /// infinity in column j makes maximum[j] infinite.
  virtual void channel_maximum(ConstTensorView x, std::span<float> maximum) = 0;
  /// Adds Σ_t zᵀz to the lower triangle of `sum` [n × n] (host; the upper one is left alone), z =
  /// round(x · scale), ties to even: integers, so that the sum is exact and does not depend on the
  /// order while its elements stay below 2⁵³ (2²³ tokens). The caller chooses scales, powers of
  /// two, from the channels' maxima such that |z| ≤ 2¹⁵ − 1. Throws Error if a z does not fit in 16
  /// bits or is not a number; `sum` is then undefined. One call spreads over all threads of the
  /// rank; extra memory is at most 32 MiB or an eighth of `sum`.
  virtual void accumulate_hessian(ConstTensorView x, std::span<const float> scale,
                                  MatrixView<double> sum) = 0;
  /// Adds a block column of the same sum: Σ_t z[t, first + i] z[t, first + j] to sum(i, j) for all
  /// rows of `sum` [n − first × width]; the bits are those of accumulate_hessian. Elements above
  /// the diagonal are undefined. `first` is a multiple of hessian_panel_unit, and so is `width` but
  /// for the last columns. Throws like accumulate_hessian, and if the backend has no such
  /// operation.
  virtual void accumulate_hessian_panel(ConstTensorView x, std::span<const float> scale,
                                        index_t first, MatrixView<double> sum);
  static constexpr index_t hessian_panel_unit = 128;
  /// Adds Σ_t z'ᵀz [m × n] to `sum` (host), z = round(x · scale) and z' = round(e · e_scale), by
  /// the same integers, with the same limits and errors. e [T × m], x [T × n].
  virtual void accumulate_cross(ConstTensorView e, std::span<const float> e_scale,
                                ConstTensorView x, std::span<const float> scale,
                                MatrixView<double> sum) = 0;

  /// Returns the quantizer of layers: the host's, unless the backend has a better one.
  [[nodiscard]] virtual Quantizer& quantizer();
  /// Returns Ŵ [rows × cols] in the backend's memory; nothing if the ranks of a node had better
  /// make it on the host together.
  [[nodiscard]] virtual std::optional<Tensor> dequantize(const QuantizedLinear& layer);
};

/// Makes the CPU backend: OpenMP over units, one BLAS thread inside each. threads: OpenMP threads
/// of this rank.
[[nodiscard]] std::unique_ptr<Backend> make_cpu_backend(int threads);

/// Makes the backend for "auto", "cpu" or "cuda": the one place where that choice is made. "auto"
/// is a GPU where there is one, else the CPU. Throws Error if "cuda" is asked for and this build or
/// machine has none.
[[nodiscard]] std::unique_ptr<Backend> make_backend(std::string_view choice, int threads,
                                                    DeviceTurn turn = {});

}  // namespace quip

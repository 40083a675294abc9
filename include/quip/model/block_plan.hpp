// A part of a model as data: operations over named activations. Running it, capturing the inputs of
// its linears, loading, flops and memory all walk the same list.
#pragma once

#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "quip/backend/backend.hpp"
#include "quip/core/range.hpp"

namespace quip {

/// The place of a matrix in the checkpoint: its element (i, j) is number offset + i·row_stride +
/// j·column_stride of a tensor. Several matrices may share a tensor.
struct WeightHandle {
  std::string tensor;
  std::vector<index_t> shape;  ///< of the whole tensor
  index_t offset = 0;
  index_t row_stride = 0;
  index_t column_stride = 1;

  /// True if a matrix of this many elements is the whole tensor.
  [[nodiscard]] bool is_whole(index_t elements) const;
};

/// A tensor of known shape that stays as it is (norms, biases, projections).
struct TensorSpec {
  std::string name;
  std::vector<index_t> shape;
  std::optional<WeightHandle> stored = {};  ///< of a vector that is a part of another tensor

  [[nodiscard]] index_t elements() const;
};

/// One linear layer of a block: these get quantized.
struct LinearSpec {
  std::string name;  ///< full, as that of a tensor without ".weight"
  std::string type;  ///< last part of the name ("q_proj"): what reports group by
  index_t rows = 0;  ///< outputs
  index_t cols = 0;  ///< inputs
  int tap = 0;       ///< number of the captured activation that its input is, or is made of
  bool bias = false;
  /// Its output, or an expert's rows of it, is added to the block's residual, times `adds_by`.
  bool adds = false;
  double adds_by = 1;
  WeightHandle stored = {};
  index_t expert = -1;  ///< number of the expert that it belongs to; -1: none
  int input = 0;        ///< an expert's: number of its input among those of the expert

  /// Returns the tensor that holds its weights.
  [[nodiscard]] TensorSpec tensor() const { return {stored.tensor, stored.shape}; }
  /// True if that tensor holds other weights as well.
  [[nodiscard]] bool shares_tensor() const { return !stored.is_whole(rows * cols); }
};

/// The number of an activation in its plan.
using Slot = int;

/// The rows of an activation that are an expert's: those of the tokens that were routed to it.
struct RoutedRows {
  Slot routes = 0;
  index_t expert = 0;
  double share = 0;  ///< of all tokens, if experts were equally busy
};

struct ActivationSpec {
  std::string name;                ///< for messages
  index_t width = 0;               ///< elements a token
  std::optional<RoutedRows> rows;  ///< none: a row for every token
};

/// The operations. Tensors are named in full; an empty name is a tensor that is not there.
namespace op {

/// to = from / rms(from) · (gain + plus), row by row, or each head of a row by itself; without the
/// factor if it has no gain.
struct RmsNorm {
  std::string gain;
  float plus = 0;
  float epsilon = 0;
  index_t heads = 1;
  Slot from = 0;
  Slot to = 0;
};
/// to = (from − mean) / std · gain + bias, row by row.
struct LayerNorm {
  std::string gain;
  std::string bias;
  float epsilon = 0;
  Slot from = 0;
  Slot to = 0;
};
/// to = from · Wᵀ + bias, with the tensors `name`.weight and `name`.bias.
struct Linear {
  std::string name;
  index_t rows = 0;
  index_t cols = 0;
  bool bias = false;
  bool adds = false;  ///< to what `to` holds
  Slot from = 0;
  Slot to = 0;
  bool in_fp32 = false;  ///< on every backend: a router's
};
/// Rotates the heads of x by position.
struct Rope {
  RopeShape shape;
  int table = 0;  ///< number of the angles (ModelPlan::ropes)
  Slot x = 0;
};
struct Attention {
  AttentionShape shape;
  std::string sinks;
  Slot q = 0;
  Slot k = 0;
  Slot v = 0;
  Slot to = 0;
};
/// x = f(x).
struct Activate {
  Activation kind = Activation::relu;
  Slot x = 0;
};
/// gate = f(gate) · up.
struct Gate {
  Activation kind = Activation::silu;
  Slot gate = 0;
  Slot up = 0;
};
/// gate = the activation of both.
struct GateClamped {
  ClampedSwiglu shape;
  Slot gate = 0;
  Slot up = 0;
};
/// x += rows [first, first + length) of a tensor: learned positions.
struct AddRows {
  std::string tensor;
  index_t first = 0;
  Slot x = 0;
};
/// x = factor · x.
struct Scale {
  float factor = 1;
  Slot x = 0;
};
/// to += from.
struct Add {
  Slot from = 0;
  Slot to = 0;
};
/// Chooses experts for each token (Backend::route).
struct Route {
  RouterShape shape;
  std::string correction;
  Slot logits = 0;
  Slot routes = 0;
};
/// to = the rows of `from` that are routed to an expert, times their weights if `weighted`.
struct Gather {
  Slot from = 0;
  Slot routes = 0;
  Slot to = 0;
  bool weighted = false;
};
/// Adds the rows of an expert to those that they were gathered from, times their weights if
/// `weighted`.
struct Scatter {
  Slot from = 0;
  Slot routes = 0;
  Slot to = 0;
  bool weighted = true;
};
/// Copies `count` channels of every head, from channel `from_first` on, to those from `to_first`
/// on. `common`: `from` has one head, which goes to all.
struct CopyChannels {
  index_t heads = 1;
  bool common = false;
  index_t from_first = 0;
  index_t to_first = 0;
  index_t count = 0;
  Slot from = 0;
  Slot to = 0;
};
struct Copy {
  Slot from = 0;
  Slot to = 0;
};

}  // namespace op

using Operation =
    std::variant<op::RmsNorm, op::LayerNorm, op::Linear, op::Rope, op::Attention, op::Activate,
                 op::Gate, op::GateClamped, op::AddRows, op::Scale, op::Add, op::Route, op::Gather,
                 op::Scatter, op::Copy, op::CopyChannels>;

/// The activations that an operation reads, and those that it writes; both for one in place.
struct Operands {
  std::vector<Slot> read;
  std::vector<Slot> written;
};
[[nodiscard]] Operands operands(const Operation& operation);

/// An activation that is the input of linears which get quantized, or of experts.
struct Tap {
  Slot slot = 0;
  index_t operation = 0;      ///< number of the first that reads it so
  std::vector<Slot> carried;  ///< activations needed from there on: this one, and others
};

/// One expert of a mixture.
struct ExpertPlan {
  index_t number = 0;
  Range operations;         ///< from the gathering of its tokens to the scattering of its outputs
  Range linears;            ///< those of the block that are its own
  std::vector<Tap> inputs;  ///< of its linears, in the order in which they are reached
};

/// Operations in order. Made by a PlanBuilder, which derives all but the first three lists.
struct BlockPlan {
  std::vector<ActivationSpec> activations;
  std::vector<Operation> operations;
  std::vector<TensorSpec> tensors;  ///< those that operations read and that stay as they are
  Slot input = 0;
  Slot output = 0;                  ///< the residual of a block is both
  std::vector<LinearSpec> linears;  ///< in the order of their operations
  std::vector<Tap> taps;  ///< in the order in which they are reached; the last is the experts'
  std::vector<ExpertPlan> experts;  ///< in the order of their operations
  std::vector<Range> lives;  ///< of each activation: its first and its last operation, inclusive
  std::vector<index_t> columns;  ///< of each carried activation: its first in their common buffer
  index_t carried_width = 0;     ///< of that buffer

  /// Returns the operations of a stage, 0 ≤ stage ≤ number of taps: those between two taps.
  [[nodiscard]] Range stage(int number) const;
  [[nodiscard]] index_t width(Slot slot) const { return activations[at(slot)].width; }
  [[nodiscard]] index_t tap_width(int tap) const { return width(taps[at(tap)].slot); }
  /// Returns the number of taps that are inputs of linears themselves.
  [[nodiscard]] int dense_taps() const {
    return static_cast<int>(taps.size()) - (experts.empty() ? 0 : 1);
  }
  /// Returns the width of what a tap carries on.
  [[nodiscard]] index_t width_at(const Tap& tap) const;
};

/// True if some linear adds to the block's residual.
[[nodiscard]] bool adds_to_residual(const BlockPlan& plan);

/// Returns, for each operation, the elements a token of the activations that are there while it
/// runs; input and output of the plan are not counted.
[[nodiscard]] std::vector<index_t> live_widths(const BlockPlan& plan);

}  // namespace quip

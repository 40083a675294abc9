#include "family_common.hpp"

#include <algorithm>
#include <cmath>

#include "quip/core/error.hpp"

namespace quip {
namespace {

constexpr const char* head_name = "lm_head.weight";

}  // namespace

bool has_own_head(const TensorSource& source, const std::string& embedding) {
  constexpr index_t piece = index_t{1} << 20;
  if (!source.contains(head_name)) return false;
  const TensorInfo& head = source.info(head_name);
  const TensorInfo& table = source.info(embedding);
  if (head.dtype != table.dtype || head.shape != table.shape) return true;
  std::vector<std::byte> ours(static_cast<std::size_t>(std::min(piece, head.bytes())));
  std::vector<std::byte> theirs(ours.size());
  for (index_t first = 0; first < head.bytes(); first += piece) {
    const auto count = static_cast<std::size_t>(std::min(piece, head.bytes() - first));
    source.read(head_name, first, std::span(ours).first(count));
    source.read(embedding, first, std::span(theirs).first(count));
    if (!std::equal(ours.begin(), ours.begin() + std::ssize(ours), theirs.begin())) return true;
  }
  return false;
}

void require_length(const ModelConfig& config, index_t length) {
  if (length <= config.max_positions) return;
  fail(
      "sequences of {} tokens are too long: config.json has max_position_embeddings = {}; make "
      "a token set of shorter sequences",
      length, config.max_positions);
}

float attention_scale(index_t head_dim) {
  return static_cast<float>(1.0 / std::sqrt(static_cast<double>(head_dim)));
}

void append_biases(const std::vector<LinearSpec>& linears, std::vector<TensorSpec>& tensors) {
  for (const LinearSpec& linear : linears) {
    if (linear.bias) tensors.push_back({linear.name + ".bias", {linear.rows}});
  }
}

void apply_linear(Backend& backend, const WeightSet& weights, const std::string& name,
                  ConstTensorView x, TensorView y) {
  backend.linear(x, weights[name + ".weight"], weights.optional(name + ".bias"), y);
}

void add_linear(Backend& backend, const WeightSet& weights, const std::string& name,
                ConstTensorView x, TensorView residual) {
  backend.linear_add(x, weights[name + ".weight"], weights.optional(name + ".bias"), residual);
}

}  // namespace quip

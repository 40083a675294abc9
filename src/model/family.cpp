#include "quip/model/family.hpp"

#include "family_common.hpp"

#include "quip/core/error.hpp"

namespace quip {

ConstTensorView WeightSet::operator[](const std::string& name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) fail("tensor {} was not loaded", name);
  return found->second.cview();
}

ConstTensorView WeightSet::optional(const std::string& name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? ConstTensorView{} : found->second.cview();
}

void forward_block(const Family& family, index_t block, Backend& backend, const WeightSet& weights,
                   TensorView residual) {
  Tensor input;
  for (int stage = 0; stage <= family.taps(); ++stage) {
    Tensor output;
    if (stage < family.taps()) output = backend.allocate(residual.rows, family.tap_width(stage));
    family.advance(stage, block, backend, weights, residual, input.cview(), output.view());
    input = std::move(output);
  }
}

namespace {

void require(const TensorSource& source, const TensorSpec& tensor) {
  require_shape(source, tensor.name, tensor.shape);
}

// Reads headers only, so a checkpoint that does not fit its config.json fails at once.
void require_all(const Family& family, const TensorSource& source,
                 const std::function<bool(const std::string&)>& elsewhere) {
  require(source, family.embedding());
  require(source, family.head());
  for (const TensorSpec& tensor : family.end_tensors()) require(source, tensor);
  for (index_t block = 0; block < family.config().blocks; ++block) {
    for (const LinearSpec& linear : family.linears(block)) {
      if (elsewhere && elsewhere(linear.name)) continue;
      require_shape(source, linear.name + ".weight", {linear.rows, linear.cols});
    }
    for (const TensorSpec& tensor : family.block_tensors(block)) require(source, tensor);
  }
}

std::unique_ptr<Family> make_unchecked(const ModelConfig& config, const TensorSource& source) {
  return config.model_type == "opt" ? make_opt(config, source) : make_llama(config);
}

}  // namespace

std::unique_ptr<Family> make_family(const ModelConfig& config, const TensorSource& source,
                                    const std::function<bool(const std::string&)>& elsewhere) {
  auto family = make_unchecked(config, source);
  const std::string embedding = family->embedding().name;
  if (config.tied_head && source.contains(embedding) && has_own_head(source, embedding)) {
    ModelConfig untied = config;
    untied.tied_head = false;
    family = make_unchecked(untied, source);
  }
  require_all(*family, source, elsewhere);
  return family;
}

}  // namespace quip

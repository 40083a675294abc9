#include "quip/model/family.hpp"

#include <initializer_list>
#include <set>
#include <string>
#include <utility>

#include "family_common.hpp"

#include "quip/core/error.hpp"
#include "quip/model/checkpoint.hpp"

namespace quip {

namespace {

/// Finds what the names of a wrapped model's tensors begin with, which differs from one wrapper,
/// and one version of transformers, to another. Without a head of its own it has the embedding's.
void settle_names(const TensorSource& source, ModelConfig& config) {
  const auto choose = [&](std::initializer_list<const char*> names, const char* rest,
                          std::string& chosen) {
    for (const char* name : names) {
      chosen = name;
      if (source.contains(chosen + rest)) return true;
    }
    return false;
  };
  const bool there = choose({"language_model.model.", "model.language_model.", "model."},
                            "embed_tokens.weight", config.root);
  const bool has_head =
      choose({"language_model.lm_head.weight", "lm_head.weight"}, "", config.head);
  if (there && !has_head) config.tied_head = true;
}

}  // namespace

void for_each_tensor(const Family& family, const std::function<void(const TensorSpec&)>& visit) {
  visit(family.embedding());
  visit(family.head());
  for (const TensorSpec& tensor : family.end_tensors()) visit(tensor);
  for (index_t block = 0; block < family.config().blocks; ++block) {
    for (const LinearSpec& linear : family.linears(block)) {
      visit(linear.tensor());
    }
    for (const TensorSpec& tensor : family.block_tensors(block)) {
      visit(tensor.stored ? TensorSpec{tensor.stored->tensor, tensor.stored->shape} : tensor);
    }
  }
}

std::unique_ptr<Family> make_unchecked_family(const ModelConfig& config,
                                              const TensorSource& source) {
  const ModelRow* model = find_model(config.model_type);
  if (model == nullptr) fail("no family is called {}", config.model_type);
  ModelConfig settled = config;
  if (config.wrapped) settle_names(source, settled);
  ModelPlan plan = model->plan(settled, source);
  return std::make_unique<Family>(std::move(settled), std::move(plan));
}

std::unique_ptr<Family> make_family(const ModelConfig& config, const TensorSource& source,
                                    const std::function<bool(const std::string&)>& elsewhere) {
  auto family = make_unchecked_family(config, source);
  if (has_own_head(family->config(), source, family->embedding().name)) {
    ModelConfig untied = config;
    untied.tied_head = false;
    family = make_unchecked_family(untied, source);
  }
  // Reads headers only, so a checkpoint that does not fit its config.json fails at once.
  std::set<std::string> packed;  // tensors of which every row is elsewhere
  std::set<std::string> needed;
  for (index_t block = 0; block < config.blocks; ++block) {
    for (const LinearSpec& linear : family->linears(block)) {
      const bool is_packed = elsewhere && elsewhere(linear.name);
      (is_packed ? packed : needed).insert(linear.stored.tensor);
    }
  }
  for_each_tensor(*family, [&](const TensorSpec& tensor) {
    if (packed.contains(tensor.name) && !needed.contains(tensor.name)) return;
    require_shape(source, tensor.name, tensor.shape);
  });
  return family;
}

}  // namespace quip

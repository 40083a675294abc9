// A Hugging Face directory: its tensors and the family they belong to.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "quip/model/family.hpp"

namespace quip {

struct Checkpoint {
  std::unique_ptr<TensorSource> source;
  std::unique_ptr<Family> family;
  std::vector<std::string> remarks;  ///< lines for the user on what is not used
};

/// Visits all tensors that a checkpoint of the family has; a tied head as the embedding that it is.
void for_each_tensor(const Family& family, const std::function<void(const TensorSpec&)>& visit);

/// Adds a remark if config.json ties the head to the embedding but the model has its own.
void remark_on_head(const ModelConfig& config, const Family& family,
                    std::vector<std::string>& remarks);

/// Opens config.json and the checkpoint beside it. Throws Error naming file or tensor if something
/// is missing or does not fit, and, unless `allow_unused`, if a block holds tensors that no model
/// of this family has: it is then probably not what config.json says. Tensors elsewhere that
/// nothing uses are a remark.
[[nodiscard]] Checkpoint open_model_directory(const std::filesystem::path& directory,
                                              bool allow_unused);

}  // namespace quip

// A model without its weights: config.json is enough to plan with.
#pragma once

#include <filesystem>
#include <memory>

#include "quip/model/family.hpp"

namespace quip::plan {

struct ModelShapes {
  std::unique_ptr<TensorSource> source;  ///< names, types and shapes; random where no weights are
  std::unique_ptr<Family> family;
};

/// Opens a config.json, or a directory with one. Where the directory also holds a checkpoint, its
/// headers tell which tensors there are; else the family does, all with the element type that
/// config.json names (bfloat16 if it names none). Throws Error naming the file.
[[nodiscard]] ModelShapes open_shapes(const std::filesystem::path& path);

}  // namespace quip::plan

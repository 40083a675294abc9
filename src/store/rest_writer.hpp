// Fills rest.h5 from a checkpoint, all ranks together.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "manifest.hpp"

#include "quip/comm/collectives.hpp"
#include "quip/io/tensor_source.hpp"

namespace quip {

struct RestFile {
  std::vector<RestEntry> tensors;
  std::string frame;  ///< digest of the file's other bytes
};

/// Writes the tensors `names` of `source`; every rank copies its share of the chunks. Collective.
[[nodiscard]] RestFile write_rest_file(Collectives& comm, const std::filesystem::path& directory,
                                       const TensorSource& source,
                                       const std::vector<std::string>& names);

}  // namespace quip

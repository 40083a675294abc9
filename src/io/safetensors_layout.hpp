// A new safetensors file: its header, and where each tensor's elements go.
#pragma once

#include <string>
#include <vector>

#include "quip/io/tensor_source.hpp"

namespace quip {

struct SafetensorsLayout {
  std::string header;            ///< the first bytes of the file, their length included
  std::vector<index_t> offsets;  ///< of each tensor's elements in the file, in the order given
  index_t bytes = 0;             ///< of the whole file
};

/// Lays tensors out in the order given. Sorted by falling `dtype`, all of them are aligned, which
/// torch insists on.
[[nodiscard]] SafetensorsLayout lay_out_safetensors(const std::vector<TensorInfo>& tensors);

}  // namespace quip

// Writes one safetensors file, tensor after tensor, in bounded memory.
#pragma once

#include <span>
#include <vector>

#include "files.hpp"

#include "quip/io/tensor_source.hpp"

namespace quip {

/// The header goes out first; elements follow by `append`, in the order of `tensors`.
class SafetensorsWriter {
 public:
  SafetensorsWriter(const std::filesystem::path& file, const std::vector<TensorInfo>& tensors);

  void append(std::span<const std::byte> bytes);
  /// Renames the file to its final name. Throws Error if bytes are missing or too many.
  void publish();

 private:
  PendingFile pending_;
  File file_;
  index_t position_ = 0;
  index_t end_ = 0;
};

}  // namespace quip

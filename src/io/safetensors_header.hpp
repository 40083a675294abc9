// The header of a safetensors file, checked before anything in it is trusted.
#pragma once

#include <map>
#include <span>
#include <string>
#include <vector>

#include "quip/core/matrix.hpp"
#include "quip/io/tensor_source.hpp"

namespace quip {

/// One entry of a header.
struct HeaderEntry {
  TensorInfo info;
  index_t begin = 0;  ///< first byte, counted from the start of the file
  index_t end = 0;
};

/// Parses the first bytes of `file`: 8 bytes of header length, then JSON. Every entry's
/// range is inside the file, fits its shape, and the ranges tile the data without overlap
/// or hole, as the format demands.
/// Throws Error naming `origin` (the path) and the tensor.
[[nodiscard]] std::map<std::string, HeaderEntry> parse_header(std::span<const std::byte> file,
                                                              const std::string& origin);

}  // namespace quip

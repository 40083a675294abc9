// The header of a safetensors file, checked before anything in it is trusted.
#pragma once

#include <map>
#include <span>
#include <string>
#include <vector>

#include "quip/core/matrix.hpp"
#include "quip/io/tensor_source.hpp"

namespace quip {

/// An entry of a header.
struct HeaderEntry {
  TensorInfo info;
  index_t begin = 0;  ///< first byte, counted from the start of the file
  index_t end = 0;
};

/// Parses the first bytes of `file`: 8 bytes of header length, then JSON. Throws Error naming
/// `origin` (the path) and the tensor unless every range fits its shape, and the ranges tile the
/// data of the file without overlap or hole, as the format demands.
[[nodiscard]] std::map<std::string, HeaderEntry> parse_header(std::span<const std::byte> file,
                                                              const std::string& origin);

}  // namespace quip

// Tokenized text: an HDF5 file with one dataset of equal-length sequences.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "quip/core/matrix.hpp"

namespace quip {

/// Dataset `input_ids`, int32 [samples, length]; rows are read on demand.
class TokenSet {
 public:
  /// Opens a file. Throws Error naming the file if it is not such a set, is empty, or its
  /// sequences are shorter than 2 tokens.
  explicit TokenSet(const std::filesystem::path& file);

  [[nodiscard]] index_t samples() const { return samples_; }
  [[nodiscard]] index_t length() const { return length_; }
  [[nodiscard]] const std::filesystem::path& file() const { return file_; }

  /// Returns rows [first, first + count), row-major. Throws Error naming sample and position of an
  /// id outside [0, vocabulary).
  [[nodiscard]] std::vector<std::int32_t> read(index_t first, index_t count,
                                               index_t vocabulary) const;
  /// Returns the digest of the first `samples` rows, on which a result depends.
  [[nodiscard]] std::string digest(index_t samples) const;

 private:
  std::filesystem::path file_;
  index_t samples_ = 0;
  index_t length_ = 0;
};

}  // namespace quip

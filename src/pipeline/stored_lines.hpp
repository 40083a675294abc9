// Matrices as they lie in a checkpoint's tensors.
#pragma once

#include <span>

#include "quip/core/range.hpp"
#include "quip/io/tensor_source.hpp"
#include "quip/model/block_plan.hpp"

namespace quip {

/// A matrix in the order in which its tensor has it: lines of elements, which are its rows or its
/// columns. Where they lie one after the other, without a gap, every element is a line by itself:
/// shares of lines are then shares of elements.
struct StoredLines {
  std::string tensor;
  index_t first = 0;     ///< element of the tensor
  index_t count = 0;     ///< lines
  index_t length = 1;    ///< elements of a line
  index_t stride = 1;    ///< from a line to the next
  index_t step = 1;      ///< from an element to the next
  bool columns = false;  ///< lines are columns of the matrix

  [[nodiscard]] index_t elements() const { return count * length; }
  /// Returns the elements of the tensor that are read for a line, with those in between.
  [[nodiscard]] index_t extent() const { return (length - 1) * step + 1; }
  /// Returns the elements of the tensor from the first line of a range to its last.
  [[nodiscard]] Range span_of(Range lines) const;
};

/// Returns the lines of a matrix [rows × cols].
[[nodiscard]] StoredLines lines_of(const WeightHandle& place, index_t rows, index_t cols);
/// Returns those of a tensor that stays as it is.
[[nodiscard]] StoredLines lines_of(const TensorSpec& tensor);

/// Reads the elements of some lines as they are stored, without those in between.
void read_lines(const TensorSource& source, const StoredLines& lines, Range range,
                std::span<std::byte> out);

/// Converts such bytes to fp32, to their places in a matrix of which `values` is the first element.
/// Throws Error naming the tensor if it holds a NaN or an infinity.
void convert_lines(const TensorSource& source, const StoredLines& lines, Range range,
                   std::span<const std::byte> stored, float* values);

/// Reads some lines as fp32 to their places. Throws like convert_lines.
void read_to_places(const TensorSource& source, const StoredLines& lines, Range range,
                    float* values);

}  // namespace quip

// Checkpoints whose weights have few bits, and a scale for each block of them, seen as fp32.
#pragma once

#include <memory>
#include <set>
#include <string>

#include "quip/io/tensor_source.hpp"

namespace quip {

/// How a checkpoint stores the weights of its linears.
struct WeightFormat {
  enum class Kind {
    plain,
    fp8,   ///< X in F8_E4M3 and X_scale_inv, a factor for each block of rows and columns
    mxfp4  ///< X_blocks, 16 bytes for 32 elements, and X_scales, a power of two for each such block
  };
  Kind kind = Kind::plain;
  index_t block_rows = 0;  ///< fp8; the last block of a tensor may have fewer
  index_t block_cols = 0;
};

/// Presents those tensors of `stored` that are in the format, and in `wanted`, in F32 under their
/// own names and with the shape of their elements; their scales are not listed. All others stay as
/// they are. Every value is the product of two stored numbers, rounded to fp32. Throws Error naming
/// the tensor if scales are missing or do not fit; reading throws Error for a NaN, and for a scale
/// that is zero or not finite.
[[nodiscard]] std::unique_ptr<TensorSource> decode_weights(std::unique_ptr<TensorSource> stored,
                                                           const WeightFormat& format,
                                                           const std::set<std::string>& wanted);

}  // namespace quip

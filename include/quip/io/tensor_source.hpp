// A source of named tensors: a safetensors checkpoint or a packed model.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "quip/core/dtype.hpp"
#include "quip/core/matrix.hpp"

namespace quip {

struct TensorInfo {
  std::string name;
  DType dtype = DType::f32;
  std::vector<index_t> shape;

  [[nodiscard]] index_t elements() const {
    index_t count = 1;
    for (const index_t extent : shape) count *= extent;
    return count;
  }
  [[nodiscard]] index_t bytes() const { return bytes_of(dtype, elements()); }
};

/// True if `width` bytes times all sizes of this shape, but for those of zero, stays below 2⁶³:
/// sizes that others wrote must not overflow, in whatever order they are multiplied.
[[nodiscard]] bool addressable(const std::vector<index_t>& shape, index_t width);

/// Random access to the stored bytes of named tensors. Reading a range touches that range only: no
/// source holds a whole model in memory.
class TensorSource {
 public:
  TensorSource() = default;
  TensorSource(const TensorSource&) = delete;
  TensorSource& operator=(const TensorSource&) = delete;
  virtual ~TensorSource() = default;

  /// Returns the names of all tensors, sorted.
  [[nodiscard]] virtual std::vector<std::string> names() const = 0;
  [[nodiscard]] virtual bool contains(const std::string& name) const = 0;
  /// Returns a tensor's type and shape. Throws Error naming tensor and source if it is not there.
  [[nodiscard]] virtual const TensorInfo& info(const std::string& name) const = 0;
  /// Copies bytes [offset, offset + out.size()) of the row-major data.
  virtual void read(const std::string& name, index_t offset, std::span<std::byte> out) const = 0;
  /// Waits until a later `read` of this range finds it in the operating system's memory, if that
  /// is possible; never an error. May be called beside `read`, by another thread.
  virtual void fetch(const std::string& /*name*/, index_t /*offset*/, index_t /*bytes*/) const {}
  /// Returns the name of this source in messages (a path).
  [[nodiscard]] virtual std::string describe() const = 0;
};

/// Throws Error unless `bytes` bytes from byte `offset` on lie inside the tensor.
void require_range(const TensorSource& source, const TensorInfo& tensor, index_t offset,
                   index_t bytes);

/// Reads elements from number `first` on, as fp32, until `out` is full. Throws Error naming the
/// tensor if one is NaN or infinite, or of a type that quip does not compute with.
void read_floats(const TensorSource& source, const std::string& name, index_t first,
                 std::span<float> out);

/// Throws Error unless tensor `name` is there with exactly this shape, in a type that quip computes
/// with.
void require_shape(const TensorSource& source, const std::string& name,
                   const std::vector<index_t>& shape);

}  // namespace quip

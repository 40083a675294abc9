#include "quip/io/tensor_source.hpp"

#include <algorithm>
#include <limits>

#include <fmt/ranges.h>

#include "quip/core/error.hpp"

namespace quip {
namespace {

// Large enough for the file system, small enough to stay in a core's cache.
constexpr index_t chunk_elements = index_t{1} << 19;

void require_finite(const TensorSource& source, const std::string& name, index_t first,
                    std::span<const float> values) {
  const index_t bad = first_nonfinite(values);
  if (bad < 0) return;
  fail("tensor {} of {}: element {} (row-major) is {}; the checkpoint is damaged or overflowed",
       name, source.describe(), first + bad, values[at(bad)]);
}

void require_computable(const TensorSource& source, const TensorInfo& info) {
  if (computes_with(info.dtype)) return;
  fail("tensor {} of {} has dtype {}; quip computes with F32, F16 and BF16", info.name,
       source.describe(), to_string(info.dtype));
}

}  // namespace

bool addressable(const std::vector<index_t>& shape, index_t width) {
  index_t left = std::numeric_limits<index_t>::max() / width;
  return std::ranges::all_of(shape, [&](index_t extent) {
    if (extent > left) return false;
    left /= std::max<index_t>(extent, 1);
    return true;
  });
}

void require_range(const TensorSource& source, const TensorInfo& tensor, index_t offset,
                   index_t bytes) {
  if (offset >= 0 && offset <= tensor.bytes() - bytes) return;
  fail("tensor {} of {}: {} bytes from byte {} on are asked for, it has {}", tensor.name,
       source.describe(), bytes, offset, tensor.bytes());
}

void read_floats(const TensorSource& source, const std::string& name, index_t first,
                 std::span<float> out) {
  const DType dtype = source.info(name).dtype;
  require_computable(source, source.info(name));
  const index_t width = size_of(dtype);
  const auto count = static_cast<index_t>(out.size());
  Buffer<std::byte> stored;
  if (dtype != DType::f32) stored = Buffer<std::byte>(std::min(count, chunk_elements) * width);
  for (index_t done = 0; done < count; done += chunk_elements) {
    const index_t chunk = std::min(chunk_elements, count - done);
    const auto target = out.subspan(at(done), at(chunk));
    const index_t offset = (first + done) * width;
    if (dtype == DType::f32) {
      source.read(name, offset, std::as_writable_bytes(target));
    } else {
      const auto bytes = stored.span().first(at(chunk * width));
      source.read(name, offset, bytes);
      to_float(dtype, bytes, target);
    }
    require_finite(source, name, first + done, target);
  }
}

void require_shape(const TensorSource& source, const std::string& name,
                   const std::vector<index_t>& shape) {
  require_computable(source, source.info(name));
  if (source.info(name).shape == shape) return;
  fail("tensor {} of {} has shape {}, but config.json asks for {}", name, source.describe(),
       source.info(name).shape, shape);
}

}  // namespace quip

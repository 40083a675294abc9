#include "stored_lines.hpp"

#include <algorithm>
#include <cstring>

#include "quip/core/error.hpp"

namespace quip {
namespace {

constexpr index_t staging_elements = index_t{1} << 20;

/// Calls `work` for parts of `range` that have few enough elements to be staged.
template <typename Work>
void in_parts(const StoredLines& lines, Range range, const Work& work) {
  const index_t at_once = std::max<index_t>(staging_elements / lines.length, 1);
  for (index_t first = range.first; first < range.last; first += at_once) {
    work(Range{first, std::min(first + at_once, range.last)});
  }
}

/// Copies lines to their places in the matrix.
void put(const StoredLines& lines, Range range, const float* from, float* values) {
  if (!lines.columns) {
    std::copy_n(from, range.count() * lines.length, values + range.first * lines.length);
    return;
  }
  // Rows of the matrix in turn: what is written lies together.
  for (index_t k = 0; k < lines.length; ++k) {
    float* row = values + k * lines.count;
    for (index_t l = range.first; l < range.last; ++l) {
      row[l] = from[(l - range.first) * lines.length + k];
    }
  }
}

}  // namespace

Range StoredLines::span_of(Range lines) const {
  const index_t begin = first + lines.first * stride;
  if (lines.count() == 0) return {begin, begin};
  return {begin, first + (lines.last - 1) * stride + extent()};
}

StoredLines lines_of(const WeightHandle& place, index_t rows, index_t cols) {
  const bool by_columns = place.column_stride > place.row_stride && rows > 1;
  StoredLines lines{place.tensor, place.offset, by_columns ? cols : rows, by_columns ? rows : cols};
  lines.stride = by_columns ? place.column_stride : place.row_stride;
  lines.step = by_columns ? place.row_stride : place.column_stride;
  lines.columns = by_columns;
  const bool gapless = lines.step == 1 && (lines.stride == lines.length || lines.count == 1);
  if (!by_columns && gapless) return {place.tensor, place.offset, rows * cols};
  return lines;
}

StoredLines lines_of(const TensorSpec& tensor) {
  if (tensor.stored) return lines_of(*tensor.stored, 1, tensor.elements());
  return {tensor.name, 0, tensor.elements()};
}

void read_lines(const TensorSource& source, const StoredLines& lines, Range range,
                std::span<std::byte> out) {
  const index_t width = size_of(source.info(lines.tensor).dtype);
  if (lines.length == 1) {
    source.read(lines.tensor, lines.span_of(range).first * width, out);
    return;
  }
  std::vector<std::byte> stored(at(lines.extent() * width));
  for (index_t l = range.first; l < range.last; ++l) {
    const auto line =
        out.subspan(at((l - range.first) * lines.length * width), at(lines.length * width));
    const index_t offset = (lines.first + l * lines.stride) * width;
    if (lines.step == 1) {
      source.read(lines.tensor, offset, line);
      continue;
    }
    source.read(lines.tensor, offset, stored);
    for (index_t k = 0; k < lines.length; ++k) {
      std::memcpy(line.data() + k * width, stored.data() + k * lines.step * width, at(width));
    }
  }
}

void convert_lines(const TensorSource& source, const StoredLines& lines, Range range,
                   std::span<const std::byte> stored, float* values) {
  const DType dtype = source.info(lines.tensor).dtype;
  const index_t width = size_of(dtype) * lines.length;
  Buffer<float> room;
  in_parts(lines, range, [&](Range part) {
    const auto bytes =
        stored.subspan(at((part.first - range.first) * width), at(part.count() * width));
    const index_t count = part.count() * lines.length;
    if (lines.columns && room.empty()) room = Buffer<float>(count);
    float* out = lines.columns ? room.data() : values + part.first * lines.length;
    to_float(dtype, bytes, {out, at(count)});
    const index_t bad = first_nonfinite({out, at(count)});
    if (bad >= 0) {
      fail("{}: tensor {} holds a NaN or an infinity at element {}", source.describe(),
           lines.tensor,
           lines.first + (part.first + bad / lines.length) * lines.stride +
               bad % lines.length * lines.step);
    }
    if (lines.columns) put(lines, part, out, values);
  });
}

void read_to_places(const TensorSource& source, const StoredLines& lines, Range range,
                    float* values) {
  if (lines.length == 1) {
    read_floats(source, lines.tensor, lines.span_of(range).first,
                {values + range.first, at(range.count())});
    return;
  }
  const index_t width = size_of(source.info(lines.tensor).dtype) * lines.length;
  std::vector<std::byte> stored;
  in_parts(lines, range, [&](Range part) {
    stored.resize(at(part.count() * width));
    read_lines(source, lines, part, stored);
    convert_lines(source, lines, part, stored, values);
  });
}

}  // namespace quip

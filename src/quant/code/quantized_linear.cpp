#include "quip/quant/code/quantized_linear.hpp"

#include <algorithm>
#include <array>
#include <span>
#include <utility>

#include "core/names.hpp"

#include "quip/core/digest.hpp"
#include "quip/core/error.hpp"

namespace quip {
namespace {

constexpr Names<GridKind, 2> grid_names{
    {{GridKind::minmax, "minmax"}, {GridKind::incoherent, "incoherent"}}};

template <typename T>
void feed(Digest& digest, const T& value) {
  static_assert(std::is_trivially_copyable_v<T>);
  digest.update(std::as_bytes(std::span(&value, 1)));
}

template <typename T>
void feed(Digest& digest, const std::vector<T>& values) {
  feed(digest, static_cast<std::uint64_t>(values.size()));
  digest.update(std::as_bytes(std::span(values)));
}

}  // namespace

std::string to_string(GridKind kind) { return name_of(kind, grid_names); }
GridKind parse_grid(const std::string& text) { return parse_name(text, grid_names); }

void pack_row(const std::uint8_t* codes, index_t cols, int bits, std::uint8_t* packed) {
  std::uint32_t pending = 0;
  int filled = 0;
  for (index_t k = 0; k < cols; ++k) {
    pending |= static_cast<std::uint32_t>(codes[k]) << filled;
    filled += bits;
    while (filled >= 8) {
      *packed++ = static_cast<std::uint8_t>(pending);
      pending >>= 8;
      filled -= 8;
    }
  }
  if (filled > 0) *packed = static_cast<std::uint8_t>(pending);
}

void unpack_row(const std::uint8_t* packed, index_t cols, int bits, std::uint8_t* codes) {
  const std::uint32_t mask = (1U << bits) - 1U;
  std::uint32_t pending = 0;
  int filled = 0;
  for (index_t k = 0; k < cols; ++k) {
    if (filled < bits) {
      pending |= static_cast<std::uint32_t>(*packed++) << filled;
      filled += 8;
    }
    codes[k] = static_cast<std::uint8_t>(pending & mask);
    pending >>= bits;
    filled -= bits;
  }
}

std::string digest_of(const QuantizedLinear& layer) {
  Digest digest;
  feed(digest, layer.rows);
  feed(digest, layer.cols);
  feed(digest, static_cast<std::int64_t>(layer.bits));
  digest.update(to_string(layer.grid));
  digest.update(to_string(layer.transform));
  if (layer.group_size != 0) {
    digest.update("groups");
    feed(digest, layer.group_size);
  }
  if (layer.symmetric) digest.update("symmetric");
  feed(digest, layer.seed_u);
  feed(digest, layer.seed_v);
  feed(digest, layer.codes);
  feed(digest, layer.scale);
  feed(digest, layer.zero);
  feed(digest, layer.rescale);
  return digest.hex();
}

void validate(const QuantizedLinear& layer, const std::string& layer_name) {
  const auto require = [&](bool holds, const char* what) {
    if (!holds)
      fail("layer {}: {}; the packed model is damaged or of another version", layer_name, what);
  };
  require(layer.rows > 0 && layer.cols > 0, "rows and cols must be positive");
  require(layer.bits == 2 || layer.bits == 3 || layer.bits == 4 || layer.bits == 8,
          "bits must be 2, 3, 4 or 8");
  require(static_cast<index_t>(layer.codes.size()) == layer.rows * layer.row_bytes(),
          "codes have the wrong size");
  const bool minmax = layer.grid == GridKind::minmax;
  require(layer.group_size >= 0, "the group size must not be negative");
  require(minmax || (layer.group_size == 0 && !layer.symmetric),
          "groups and symmetry belong to the min-max grid");
  const index_t grids = layer.rows * layer.groups();
  require(static_cast<index_t>(layer.scale.size()) == (minmax ? grids : 1),
          "scale has the wrong size");
  require(static_cast<index_t>(layer.zero.size()) == (minmax && !layer.symmetric ? grids : 0),
          "zero has the wrong size");
  require(std::all_of(layer.zero.begin(), layer.zero.end(),
                      [&](std::uint8_t zero) { return zero < (1U << layer.bits); }),
          "a zero point lies outside the grid");
  require(layer.rescale.empty() || static_cast<index_t>(layer.rescale.size()) == layer.cols,
          "rescale has the wrong size");
}

}  // namespace quip

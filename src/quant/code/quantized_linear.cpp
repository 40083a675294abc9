#include "quip/quant/code/quantized_linear.hpp"

#include <algorithm>
#include <functional>
#include <numeric>
#include <span>

#include "core/names.hpp"

#include "quip/core/digest.hpp"
#include "quip/core/error.hpp"
#include "quip/quant/transform/hadamard.hpp"

namespace quip {
namespace {

static_assert(trellis::hadamard_side == hadamard_block);  // what is padded for V and U fits tiles

constexpr Names<CodebookKind, 2> codebook_names{
    {{CodebookKind::scalar, "scalar"}, {CodebookKind::trellis, "trellis"}}};
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

std::string to_string(CodebookKind kind) { return name_of(kind, codebook_names); }
CodebookKind parse_codebook_kind(const std::string& text) {
  return parse_name(text, codebook_names);
}
std::string to_string(GridKind kind) { return name_of(kind, grid_names); }
GridKind parse_grid(const std::string& text) { return parse_name(text, grid_names); }

index_t Part::count() const {
  return std::accumulate(shape.begin(), shape.end(), index_t{1}, std::multiplies<>());
}

index_t stored_bytes(const QuantizedLinear& layer) {
  index_t bytes = 0;
  visit_parts([&](const Part& part, const auto& /*elements*/) { bytes += part.bytes(); }, layer);
  return bytes;
}

std::string digest_of(const QuantizedLinear& layer) {
  Digest digest;  // what came after the first version feeds it only where it is in use
  feed(digest, layer.rows);
  feed(digest, layer.cols);
  feed(digest, static_cast<std::int64_t>(layer.bits));
  if (layer.padded()) {
    digest.update("padded");
    feed(digest, layer.row_padding);
    feed(digest, layer.col_padding);
  }
  if (layer.codebook == CodebookKind::trellis) digest.update(to_string(layer.trellis));
  digest.update(to_string(layer.grid));
  digest.update(to_string(layer.transform));
  if (layer.group_size != 0) {
    digest.update("groups");
    feed(digest, layer.group_size);
  }
  if (layer.symmetric) digest.update("symmetric");
  feed(digest, layer.seed_u);
  feed(digest, layer.seed_v);
  visit_parts([&](const Part& /*part*/, const auto& elements) { feed(digest, elements); }, layer);
  return digest.hex();
}

void validate(const QuantizedLinear& layer, const std::string& layer_name) {
  const auto require = [&](bool holds, const std::string& what) {
    if (!holds)
      fail("layer {}: {}; the packed model is damaged or of another version", layer_name, what);
  };
  require(layer.rows > 0 && layer.cols > 0, "rows and cols must be positive");
  require(
      layer.row_padding >= 0 && layer.outputs() > 0 && layer.col_padding >= 0 && layer.inputs() > 0,
      "padding must leave rows and cols");
  const bool trellis = layer.codebook == CodebookKind::trellis;
  require(
      trellis ? layer.bits >= 1 && layer.bits <= trellis::max_bits : is_scalar_width(layer.bits),
      "bits must be 2, 3, 4 or 8, or with a trellis 1 to 8");
  require(!trellis || (layer.rows % trellis::hadamard_side == 0 &&
                       layer.cols % trellis::hadamard_side == 0),
          "a trellis has multiples of 128 rows and cols");
  require(layer.group_size >= 0, "the group size must not be negative");
  require(layer.grid == GridKind::minmax ||
              (layer.group_size == 0 && !layer.symmetric && !layer.half_scales),
          "groups, symmetry and halves as scales belong to the min-max grid");
  const auto fits = [&](const Part& part, const auto& elements) {
    require(std::ssize(elements) == part.count(), fmt::format("{} has the wrong size", part.name));
  };
  visit_parts(fits, layer);
  const auto inside = [&](std::uint8_t zero) { return zero < (1U << layer.bits); };
  require(std::ranges::all_of(layer.zero, inside), "a zero point lies outside the grid");
}

}  // namespace quip

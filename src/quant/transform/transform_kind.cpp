#include "quip/quant/transform/transform_kind.hpp"

#include "core/names.hpp"

#include "quip/quant/transform/hadamard.hpp"

namespace quip {
namespace {

constexpr Names<TransformKind, 7> transform_names{
    {{TransformKind::none, "none"},
     {TransformKind::kronecker, "kronecker"},
     {TransformKind::kronecker_blocked, "kronecker-blocked"},
     {TransformKind::kronecker_nopermute, "kronecker-nopermute"},
     {TransformKind::hadamard, "hadamard"},
     {TransformKind::hadamard_128, "hadamard-128"},
     {TransformKind::dense, "dense"}}};

}  // namespace

std::string to_string(TransformKind kind) { return name_of(kind, transform_names); }

TransformKind parse_transform(const std::string& text) { return parse_name(text, transform_names); }

index_t padded(TransformKind kind, index_t n) {
  if (kind != TransformKind::hadamard_128) return n;
  return (n + hadamard_block - 1) / hadamard_block * hadamard_block;
}

}  // namespace quip

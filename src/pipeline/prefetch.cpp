#include "quip/pipeline/prefetch.hpp"

#include <algorithm>
#include <exception>
#include <stop_token>
#include <string>
#include <vector>

#include "stored_lines.hpp"

#include "quip/pipeline/loader.hpp"

namespace quip {
namespace {

// Bytes read between two checks for a stop.
constexpr index_t bytes_at_once = index_t{16} << 20;

struct Piece {
  std::string tensor;
  index_t offset;
  index_t bytes;
};

/// Returns the pieces that BlockLoader makes this rank read.
std::vector<Piece> pieces_of(const Collectives& comm, const TensorSource& source,
                             const Family& family, index_t block) {
  std::vector<Piece> pieces;
  const auto add = [&](const StoredLines& lines) {
    const index_t element = size_of(source.info(lines.tensor).dtype);
    const Range mine = read_by_all(comm, lines.elements() * element)
                           ? Range{0, lines.count}
                           : share_to_read(lines.count, comm.place());
    const Range span = lines.span_of(mine);
    const index_t end = span.last * element;
    for (index_t at = span.first * element; at < end; at += bytes_at_once) {
      pieces.push_back({lines.tensor, at, std::min(bytes_at_once, end - at)});
    }
  };
  for (const TensorSpec& tensor : family.block_tensors(block)) add(lines_of(tensor));
  for (const LinearSpec& linear : family.linears(block)) {
    add(lines_of(linear.stored, linear.rows, linear.cols));
  }
  return pieces;
}

}  // namespace

Prefetch::Prefetch(const Collectives& comm, const TensorSource& source, const Family& family,
                   index_t block)
    : reader_(
          [&source, pieces = pieces_of(comm, source, family, block)](const std::stop_token& stop) {
            try {
              for (const Piece& piece : pieces) {
                if (stop.stop_requested()) return;
                source.fetch(piece.tensor, piece.offset, piece.bytes);
              }
            } catch (const std::exception&) {
              return;  // the proper read will report the error
            }
          }) {}

}  // namespace quip

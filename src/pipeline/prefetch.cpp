#include "quip/pipeline/prefetch.hpp"

#include <algorithm>
#include <exception>
#include <stop_token>
#include <string>
#include <vector>

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

/// Returns the pieces that `load_block` makes this rank read.
std::vector<Piece> pieces_of(const Collectives& comm, const TensorSource& source,
                             const Family& family, index_t block) {
  std::vector<Piece> pieces;
  const auto add = [&](const std::string& name, index_t first, index_t count) {
    const index_t element = size_of(source.info(name).dtype);
    const Range mine =
        read_by_all(comm, count * element) ? Range{0, count} : share_to_read(count, comm.place());
    const index_t end = (first + mine.last) * element;
    for (index_t at = (first + mine.first) * element; at < end; at += bytes_at_once) {
      pieces.push_back({name, at, std::min(bytes_at_once, end - at)});
    }
  };
  for (const TensorSpec& tensor : family.block_tensors(block)) {
    add(tensor.name, 0, source.info(tensor.name).elements());
  }
  for (const LinearSpec& linear : family.linears(block)) {
    add(linear.stored.tensor, linear.stored.first_row * linear.cols, linear.rows * linear.cols);
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

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
  std::vector<std::string> names;
  for (const TensorSpec& tensor : family.block_tensors(block)) names.push_back(tensor.name);
  for (const LinearSpec& linear : family.linears(block)) names.push_back(linear.name + ".weight");
  std::vector<Piece> pieces;
  for (const std::string& name : names) {
    const TensorInfo& info = source.info(name);
    const Range mine = read_by_all(comm, info.bytes())
                           ? Range{0, info.elements()}
                           : share_to_read(info.elements(), comm.place());
    const index_t element = size_of(info.dtype);
    for (index_t at = mine.first * element; at < mine.last * element; at += bytes_at_once) {
      pieces.push_back({name, at, std::min(bytes_at_once, mine.last * element - at)});
    }
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

#include "rest_writer.hpp"

#include <algorithm>
#include <array>
#include <optional>

#include "io/files.hpp"
#include "rest_file.hpp"

#include "quip/core/digest.hpp"
#include "quip/core/error.hpp"

namespace quip {
namespace {

namespace fs = std::filesystem;

/// Throws Error naming the row if a matrix (embedding, head) is not finite: nobody else may look at
/// that row before the quantized model does. `first` is the number of its first byte in `bytes`.
void require_finite(const TensorSource& source, const TensorInfo& tensor, index_t first,
                    std::span<const std::byte> bytes) {
  constexpr std::size_t at_once = 4096;
  if (tensor.shape.size() != 2 || !computes_with(tensor.dtype)) return;
  const auto width = static_cast<std::size_t>(size_of(tensor.dtype));
  std::array<float, at_once> room{};
  for (std::size_t done = 0; done < bytes.size(); done += at_once * width) {
    const auto part = bytes.subspan(done, std::min(at_once * width, bytes.size() - done));
    const auto values = std::span(room).first(part.size() / width);
    to_float(tensor.dtype, part, values);
    const index_t bad = first_nonfinite(values);
    if (bad < 0) continue;
    const index_t element = (first + static_cast<index_t>(done)) / size_of(tensor.dtype) + bad;
    fail("tensor {} of {}: row {} is not finite (column {} is {}); the checkpoint is damaged",
         tensor.name, source.describe(), element / tensor.shape[1], element % tensor.shape[1],
         values[at(bad)]);
  }
}

/// Copies this rank's chunks, every size-th, from `source` into the file. Returns their digests,
/// joined.
std::string copy_chunks(const TensorSource& source, const fs::path& path,
                        const std::vector<TensorInfo>& tensors, std::span<const index_t> offsets,
                        std::span<const Chunk> chunks, const Collectives& comm) {
  const File file = File::open_write(path);
  const Buffer<std::byte> buffer(chunk_bytes);
  std::string digests;
  for (auto c = static_cast<std::size_t>(comm.rank()); c < chunks.size(); c += comm.size()) {
    const Chunk& chunk = chunks[c];
    const auto bytes = buffer.span().first(at(chunk.bytes));
    source.read(tensors[chunk.tensor].name, chunk.begin, bytes);
    require_finite(source, tensors[chunk.tensor], chunk.begin, bytes);
    file.write_at(bytes, offsets[chunk.tensor] + chunk.begin);
    digests += digest_of(std::span<const std::byte>(bytes));
  }
  file.sync();
  return digests;
}

/// Returns the digest of each tensor, over those of its chunks, which all ranks bring. Collective.
std::vector<Digest> gather_digests(Collectives& comm, std::size_t tensors,
                                   std::span<const Chunk> chunks, const std::string& mine) {
  const std::vector<std::string> by_rank = comm.gather(mine);
  const std::size_t length = Digest().hex().size();
  std::vector<Digest> digests(tensors);
  for (std::size_t c = 0; c < chunks.size(); ++c) {
    const std::string& own = by_rank[c % by_rank.size()];
    digests[chunks[c].tensor].update(own.substr(c / by_rank.size() * length, length));
  }
  return digests;
}

}  // namespace

RestFile write_rest_file(Collectives& comm, const fs::path& directory, const TensorSource& source,
                         const std::vector<std::string>& names) {
  std::vector<TensorInfo> tensors;
  std::vector<index_t> offsets(names.size());
  std::optional<PendingFile> pending;  // rank 0's: it removes the file after an error
  std::string temporary;               // its name
  std::string frame;
  agree(comm, [&] {
    for (const std::string& name : names) tensors.push_back(source.info(name));
    if (comm.rank() != 0) return;
    pending.emplace(directory / rest_file_name);
    temporary = pending->temporary().filename().string();
    offsets = create_rest_file(pending->temporary(), tensors);
    frame = frame_digest(pending->temporary(), tensors, offsets);
  });
  comm.broadcast(temporary, 0);
  comm.broadcast(frame, 0);
  comm.broadcast(std::span(offsets), 0);

  const std::vector<Chunk> chunks = chunks_of(tensors);
  std::string mine;
  agree(comm,
        [&] { mine = copy_chunks(source, directory / temporary, tensors, offsets, chunks, comm); });
  std::vector<Digest> digests = gather_digests(comm, tensors.size(), chunks, mine);
  agree(comm, [&] {
    if (pending) pending->publish();
  });
  RestFile rest{{}, frame};
  for (std::size_t t = 0; t < tensors.size(); ++t) {
    rest.tensors.push_back({tensors[t], offsets[t], digests[t].hex()});
  }
  return rest;
}

}  // namespace quip

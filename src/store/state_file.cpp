#include "state_file.hpp"

#include <limits>
#include <optional>

#include "io/files.hpp"
#include "rest_file.hpp"

#include "quip/core/digest.hpp"
#include "quip/core/error.hpp"
#include "quip/io/json.hpp"

namespace quip {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

TensorInfo tensor_of(const StateShape& shape) {
  return {"hidden_states", DType::f32, {shape.samples, shape.length, shape.width}};
}

index_t sample_bytes(const StateShape& shape) {
  return shape.sample_elements() * static_cast<index_t>(sizeof(float));
}

/// Returns the digest over those of all samples, of which each rank brings its own, joined.
std::string join_digests(Collectives& comm, const std::string& mine) {
  Digest digest;
  for (const std::string& digests : comm.gather(mine)) digest.update(digests);
  return digest.hex();
}

}  // namespace

json to_json(const StateEntry& entry) {
  return {{"blocks", entry.blocks},         {"file", entry.file},
          {"samples", entry.shape.samples}, {"length", entry.shape.length},
          {"width", entry.shape.width},     {"offset", entry.offset},
          {"digest", entry.digest},         {"frame", entry.frame}};
}

StateEntry parse_state(const json& entry, const std::string& where) {
  const auto number = [&](const char* key) { return require_natural(entry.at(key), where); };
  StateEntry state{number("blocks"),
                   inside_directory(entry.at("file").get<std::string>(), where),
                   {number("samples"), number("length"), number("width")},
                   number("offset"),
                   entry.at("digest").get<std::string>(),
                   entry.at("frame").get<std::string>()};
  const TensorInfo tensor = tensor_of(state.shape);
  if (!addressable(tensor.shape, sizeof(float)) || tensor.elements() == 0 ||
      state.offset > std::numeric_limits<index_t>::max() - tensor.bytes()) {
    fail("{}: hidden states of {} × {} × {} at byte {} are impossible", where, state.shape.samples,
         state.shape.length, state.shape.width, state.offset);
  }
  return state;
}

StateEntry write_state_file(Collectives& comm, const fs::path& directory, index_t blocks,
                            const StateShape& shape, Range mine, const FetchSample& fetch) {
  StateEntry entry{blocks, fmt::format("states/states_{:05}.h5", blocks), shape, 0, "", ""};
  const std::vector<TensorInfo> tensors{tensor_of(shape)};
  std::optional<PendingFile> pending;  // rank 0's: it removes the file after an error
  std::string temporary;               // its name
  agree(comm, [&] {
    if (comm.rank() != 0) return;
    make_output_directory(directory / "states");
    pending.emplace(directory / entry.file);
    temporary = pending->temporary().filename().string();
    const std::vector<index_t> offsets = create_rest_file(pending->temporary(), tensors);
    entry.offset = offsets[0];
    entry.frame = frame_digest(pending->temporary(), tensors, offsets);
  });
  comm.broadcast(temporary, 0);
  comm.broadcast(entry.frame, 0);
  comm.broadcast_value(entry.offset, 0);
  std::string digests;
  agree(comm, [&] {
    const File file = File::open_write(directory / "states" / temporary);
    std::vector<float> sample(at(shape.sample_elements()));
    for (index_t i = mine.first; i < mine.last; ++i) {
      fetch(i, sample);
      const auto bytes = std::as_bytes(std::span(sample));
      file.write_at(bytes, entry.offset + i * sample_bytes(shape));
      digests += digest_of(bytes);
    }
    file.sync();
  });
  entry.digest = join_digests(comm, digests);
  agree(comm, [&] {
    if (pending) pending->publish();
  });
  return entry;
}

void read_state_file(Collectives& comm, const fs::path& directory, const StateEntry& entry,
                     Range mine, const PutSample& put) {
  const fs::path path = directory / entry.file;
  std::string digests;
  agree(comm, [&] {
    const std::vector<TensorInfo> tensors{tensor_of(entry.shape)};
    if (comm.rank() == 0 && frame_digest(path, tensors, {entry.offset}) != entry.frame) {
      fail("{}: the file's structure does not match its digest in the manifest", path.string());
    }
    const File file = File::open_read(path);
    // Checked before memory is asked for: a damaged size must not become an allocation.
    if (entry.offset + entry.shape.samples * sample_bytes(entry.shape) > file.size()) {
      fail("{}: is too short for the hidden states that the manifest promises", path.string());
    }
    std::vector<float> sample(at(entry.shape.sample_elements()));
    for (index_t i = mine.first; i < mine.last; ++i) {
      const auto bytes = std::as_writable_bytes(std::span(sample));
      file.read_at(bytes, entry.offset + i * sample_bytes(entry.shape));
      digests += digest_of(std::span<const std::byte>(bytes));
      put(i, sample);
    }
  });
  const std::string digest = join_digests(comm, digests);
  agree(comm, [&] {
    if (digest != entry.digest) {
      fail("{}: the hidden states do not match their digest in the manifest", path.string());
    }
  });
}

}  // namespace quip

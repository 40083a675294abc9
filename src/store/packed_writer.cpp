#include <optional>

#include "block_file.hpp"
#include "files.hpp"
#include "layout.hpp"
#include "manifest.hpp"
#include "rest_file.hpp"

#include "quip/core/digest.hpp"
#include "quip/core/error.hpp"
#include "quip/store/packed_model.hpp"

namespace quip {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using namespace store;

constexpr index_t kDigestLength = 32;  // hexadecimal digits

std::string block_file_name(index_t block) { return fmt::format("blocks/block_{:05}.h5", block); }

BlockEntry store_block(const fs::path& directory, index_t block,
                       const std::vector<StoredLayer>& layers) {
  BlockEntry entry;
  entry.block = block;
  entry.file = block_file_name(block);
  for (const StoredLayer& stored : layers) {
    entry.layers.push_back(stored.name);
    entry.digests.push_back(digest_of(stored.layer));
    entry.shapes.push_back({stored.layer.rows, stored.layer.cols});
  }
  PendingFile pending(directory / entry.file);
  write_block_file(pending.temporary(), layers);
  entry.file_digest = digest_file(pending.temporary());
  pending.publish();
  return entry;
}

/// Copies every size-th chunk from `source` into the file; returns their digests.
std::vector<std::string> copy_chunks(const TensorSource& source, const fs::path& path,
                                     const std::vector<TensorInfo>& tensors,
                                     std::span<const index_t> offsets,
                                     std::span<const Chunk> chunks, const Collectives& comm) {
  const File file = File::open_write(path);
  const Buffer<std::byte> buffer(kChunkBytes);
  std::vector<std::string> digests;
  for (auto c = static_cast<std::size_t>(comm.rank()); c < chunks.size(); c += comm.size()) {
    const Chunk& chunk = chunks[c];
    const auto bytes = buffer.span().first(static_cast<std::size_t>(chunk.bytes));
    source.read(tensors[chunk.tensor].name, chunk.begin, bytes);
    file.write_at(bytes, offsets[chunk.tensor] + chunk.begin);
    digests.push_back(digest_of(std::span<const std::byte>(bytes)));
  }
  file.sync();
  return digests;
}

/// Every rank's digests, put back into the order of the chunks.
std::vector<std::string> gather_digests(Collectives& comm, std::size_t chunks,
                                        const std::vector<std::string>& mine) {
  const auto size = static_cast<std::size_t>(comm.size());
  std::vector<index_t> offsets(size + 1, 0);
  for (std::size_t r = 0; r < size; ++r) {
    const auto count = static_cast<index_t>((chunks + size - 1 - r) / size);
    offsets[r + 1] = offsets[r] + count * kDigestLength;
  }
  std::string all(static_cast<std::size_t>(offsets[size]), '\0');
  auto position = static_cast<std::size_t>(offsets[static_cast<std::size_t>(comm.rank())]);
  for (const std::string& digest : mine) {
    all.replace(position, kDigestLength, digest);
    position += kDigestLength;
  }
  comm.all_gather_bytes(std::as_writable_bytes(std::span(all)), offsets);
  std::vector<std::string> digests;
  for (std::size_t c = 0; c < chunks; ++c) {
    const auto begin = static_cast<std::size_t>(offsets[c % size]) + c / size * kDigestLength;
    digests.push_back(all.substr(begin, kDigestLength));
  }
  return digests;
}

/// The manifest's entries for the tensors of rest.h5.
json rest_entries(const std::vector<TensorInfo>& tensors, std::span<const index_t> offsets,
                  std::span<const Chunk> chunks, std::span<const std::string> digests) {
  json entries = json::object();
  std::size_t first = 0;
  for (std::size_t t = 0; t < tensors.size(); ++t) {
    std::size_t last = first;
    while (last < chunks.size() && chunks[last].tensor == t) ++last;
    entries[tensors[t].name] = to_json(
        RestEntry{tensors[t], offsets[t], digest_of_chunks(digests.subspan(first, last - first))});
    first = last;
  }
  return entries;
}

/// One file that shows the whole model: /layers/<name> and /rest, by relative links.
void write_model_file(const fs::path& path, const json& manifest) {
  const std::string where = path.string();
  PendingFile pending(path);
  Layout layout(pending.temporary());
  {
    const H5Group layers = create_group(layout.file(), "layers", where);
    for (const json& block : manifest.at("blocks")) {
      const auto target = block.at("file").get<std::string>();
      for (const auto& name : block.at("layers").get<std::vector<std::string>>()) {
        check(H5Lcreate_external(target.c_str(), ("/" + name).c_str(), layers.get(), name.c_str(),
                                 H5P_DEFAULT, H5P_DEFAULT),
              "H5Lcreate_external", where);
      }
    }
  }
  if (manifest.contains("rest_frame")) {
    check(H5Lcreate_external(kRestFile, "/", layout.file(), "rest", H5P_DEFAULT, H5P_DEFAULT),
          "H5Lcreate_external", where);
  }
  layout.write();
  pending.publish();
}

}  // namespace

struct PackedWriter::State {
  Collectives& comm;
  fs::path directory;
  json manifest;  // the same on every rank; rank 0 writes it

  void save_manifest() {
    agree(comm, [&] {
      if (comm.rank() == 0) write_manifest(directory, manifest);
    });
  }
};

PackedWriter::PackedWriter(Collectives& comm, const fs::path& directory, json header)
    : state_(new State{comm, directory, std::move(header)}) {
  state_->manifest.update({{"format", "quip-packed"},
                           {"version", kFormatVersion},
                           {"complete", false},
                           {"blocks", json::array()},
                           {"rest", json::object()}});
  agree(comm, [&] {
    if (comm.rank() != 0) return;
    make_output_directory(directory);
    make_output_directory(directory / "blocks");
  });
  state_->save_manifest();
}

PackedWriter::~PackedWriter() = default;

void PackedWriter::write_block(index_t block, const std::vector<StoredLayer>& layers) {
  Collectives& comm = state_->comm;
  const int writer = static_cast<int>(block % comm.size());
  json& blocks = state_->manifest["blocks"];
  std::string entry;
  agree(comm, [&] {
    for (const json& other : blocks) {
      if (other.at("block") == block) fail("block {} was already written", block);
    }
    if (comm.rank() != writer) return;
    entry = json_text(to_json(store_block(state_->directory, block, layers)));
  });
  comm.broadcast(entry, writer);
  const auto after = std::find_if(blocks.begin(), blocks.end(), [&](const json& other) {
    return other.at("block").get<index_t>() > block;
  });
  blocks.insert(after, json::parse(entry));
  state_->save_manifest();
}

void PackedWriter::write_rest(const TensorSource& source, const std::vector<std::string>& names) {
  Collectives& comm = state_->comm;
  std::vector<TensorInfo> tensors;
  std::vector<index_t> offsets(names.size());
  std::optional<PendingFile> pending;  // rank 0's: it removes the file after an error
  std::string temporary;
  std::string frame;
  agree(comm, [&] {
    for (const std::string& name : names) tensors.push_back(source.info(name));
    if (comm.rank() != 0) return;
    pending.emplace(state_->directory / kRestFile);
    temporary = pending->temporary().string();
    offsets = create_rest_file(temporary, tensors);
    frame = frame_digest(temporary, tensors, offsets);
  });
  comm.broadcast(temporary, 0);
  comm.broadcast(frame, 0);
  comm.broadcast(std::span(offsets), 0);

  const std::vector<Chunk> chunks = chunks_of(tensors);
  std::vector<std::string> mine;
  agree(comm, [&] { mine = copy_chunks(source, temporary, tensors, offsets, chunks, comm); });
  const std::vector<std::string> digests = gather_digests(comm, chunks.size(), mine);
  agree(comm, [&] {
    if (pending) pending->publish();
  });
  state_->manifest["rest"] = rest_entries(tensors, offsets, chunks, digests);
  state_->manifest["rest_frame"] = frame;
  state_->save_manifest();
}

void PackedWriter::finish(const json& report) {
  agree(state_->comm, [&] {
    if (state_->comm.rank() != 0) return;
    const fs::path& directory = state_->directory;
    json& manifest = state_->manifest;
    write_model_file(directory / kModelFile, manifest);
    write_text(directory / kReportFile, json_text(report));
    for (const char* file : {kModelFile, kReportFile}) {
      manifest["files"][file] = digest_file(directory / file);
    }
    manifest["digest"] = model_digest(parse_blocks(manifest, directory.string()));
    manifest["complete"] = true;
  });
  state_->save_manifest();
}

}  // namespace quip

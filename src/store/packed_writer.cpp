#include "quip/store/packed_writer.hpp"

#include <algorithm>

#include "block_file.hpp"
#include "io/directory_lock.hpp"
#include "io/files.hpp"
#include "io/hdf5_layout.hpp"
#include "manifest.hpp"
#include "rest_writer.hpp"
#include "run_start.hpp"

#include "quip/core/digest.hpp"
#include "quip/core/error.hpp"

namespace quip {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

std::string block_file_name(index_t block) { return fmt::format("blocks/block_{:05}.h5", block); }

BlockEntry store_block(const fs::path& directory, index_t block,
                       const std::vector<StoredLayer>& layers) {
  BlockEntry entry;
  entry.block = block;
  entry.file = block_file_name(block);
  for (const StoredLayer& stored : layers) {
    entry.layers.push_back(stored.name);
    entry.digests.push_back(digest_of(stored.layer));
    entry.shapes.push_back({stored.layer.outputs(), stored.layer.inputs()});
  }
  PendingFile pending(directory / entry.file);
  write_block_file(pending.temporary(), layers);
  entry.file_digest = digest_file(pending.temporary());
  pending.publish();
  return entry;
}

/// Writes one file that shows the whole model: /layers/<name> and /rest, by relative links.
void write_model_file(const fs::path& path, const json& manifest) {
  const std::string where = path.string();
  const auto link = [&](hid_t group, const std::string& name, const std::string& file,
                        const std::string& target) {
    check(H5Lcreate_external(file.c_str(), target.c_str(), group, name.c_str(), H5P_DEFAULT,
                             H5P_DEFAULT),
          "H5Lcreate_external", where);
  };
  PendingFile pending(path);
  Layout layout(pending.temporary());
  {
    const H5Group layers = create_group(layout.file(), "layers", where);
    for (const json& block : manifest.at("blocks")) {
      for (const std::string name : block.at("layers")) {
        link(layers.get(), name, block.at("file"), "/" + name);
      }
    }
  }
  if (manifest.contains("rest_frame")) link(layout.file(), "rest", rest_file_name, "/");
  layout.write();
  pending.publish();
}

}  // namespace

struct PackedWriter::State {
  Collectives& comm;
  fs::path directory;
  KeepStates keep;
  std::optional<DirectoryLock> lock;  // rank 0's
  json manifest;                      // the same on every rank; rank 0 writes it
  std::vector<std::string> notes;

  /// Does `work` on rank 0. Collective.
  template <typename Work>
  void on_root(const Work& work) {
    agree(comm, [&] {
      if (comm.rank() == 0) work();
    });
  }
  void save_manifest() {
    on_root([&] { write_manifest(directory, manifest); });
  }
  void remove_unlisted() {
    on_root([&] { remove_unlisted_states(directory, manifest); });
  }
  [[nodiscard]] json& states() { return manifest["states"]; }
};

PackedWriter::PackedWriter(Collectives& comm, const fs::path& directory, json header, Start start,
                           KeepStates keep)
    : state_(new State{comm, directory, keep, {}, {}, {}}) {
  std::string text;
  std::string notes;
  state_->on_root([&] {
    make_output_directory(directory);
    state_->lock.emplace(directory);
    if (!state_->lock->effective()) {
      state_->notes.push_back(
          fmt::format("{}: the file system has no locks; see to it that no other run writes there",
                      directory.string()));
    }
    text = open_run(directory, header, start, state_->notes).dump();
    make_output_directory(directory / "blocks");
    notes = json(state_->notes).dump(-1, ' ', false, json::error_handler_t::replace);
  });
  comm.broadcast(text, 0);
  comm.broadcast(notes, 0);
  state_->manifest = json::parse(text);
  state_->notes = json::parse(notes).get<std::vector<std::string>>();
  if (start == Start::repair) drop_damaged(comm, directory, state_->manifest, state_->notes);
  if (!complete()) state_->save_manifest();
  state_->remove_unlisted();
}

PackedWriter::~PackedWriter() = default;

const std::vector<std::string>& PackedWriter::notes() const { return state_->notes; }

bool PackedWriter::complete() const { return state_->manifest.at("complete") == true; }

bool PackedWriter::has_rest() const { return state_->manifest.contains("rest_frame"); }

bool PackedWriter::has_block(index_t block) const {
  const json& blocks = state_->manifest.at("blocks");
  return std::any_of(blocks.begin(), blocks.end(),
                     [&](const json& entry) { return entry.at("block") == block; });
}

std::vector<json> PackedWriter::reports() const {
  std::vector<json> reports;
  for (const json& block : state_->manifest.at("blocks")) {
    for (const json& layer : block.at("report")) reports.push_back(layer);
  }
  return reports;
}

std::optional<index_t> PackedWriter::states_before(index_t block) const {
  std::optional<index_t> best;
  for (const json& entry : state_->manifest.at("states")) {
    const auto blocks = entry.at("blocks").get<index_t>();
    if (blocks <= block && (!best || blocks > *best)) best = blocks;
  }
  return best;
}

json PackedWriter::stream_distances() const {
  json distances = json::array();
  for (const json& block : state_->manifest.at("blocks")) {
    distances.push_back(block.value("stream_distance", json()));
  }
  return distances;
}

void PackedWriter::write_block(index_t block, const std::vector<StoredLayer>& layers,
                               std::optional<double> distance) {
  Collectives& comm = state_->comm;
  const int writer = static_cast<int>(block % comm.size());
  json& blocks = state_->manifest["blocks"];
  std::string entry;
  agree(comm, [&] {
    if (has_block(block)) fail("block {} was already written", block);
    if (comm.rank() != writer) return;
    entry = json_text(to_json(store_block(state_->directory, block, layers)));
  });
  comm.broadcast(entry, writer);
  json finished = json::parse(entry);
  finished["report"] = json::array();  // --skip may leave a block without any
  for (const StoredLayer& layer : layers) finished["report"].push_back(to_json(layer));
  if (distance) finished["stream_distance"] = *distance;
  const auto after = std::find_if(blocks.begin(), blocks.end(), [&](const json& other) {
    return other.at("block").get<index_t>() > block;
  });
  blocks.insert(after, std::move(finished));
  state_->save_manifest();
}

void PackedWriter::write_states(index_t blocks, const StateShape& shape, Range mine,
                                const FetchSample& fetch) {
  const bool kept = states_before(blocks) == blocks;  // by an earlier run
  if (kept || state_->keep == KeepStates::none) return;
  Collectives& comm = state_->comm;
  const StateEntry entry = write_state_file(comm, state_->directory, blocks, shape, mine, fetch);
  if (state_->keep == KeepStates::last) state_->states() = json::array();
  state_->states().push_back(to_json(entry));
  state_->save_manifest();
  state_->remove_unlisted();
}

void PackedWriter::read_states(index_t blocks, const StateShape& shape, Range mine,
                               const PutSample& put) {
  const json& states = state_->manifest.at("states");
  const auto found = std::find_if(states.begin(), states.end(),
                                  [&](const json& entry) { return entry.at("blocks") == blocks; });
  if (found == states.end()) fail("no hidden states after {} blocks are kept", blocks);
  const StateEntry entry = parse_state(*found, (state_->directory / manifest_file_name).string());
  agree(state_->comm, [&] {
    if (entry.shape != shape) {
      fail("{}: hidden states of {} samples, {} tokens, width {} are not those of this run",
           (state_->directory / entry.file).string(), entry.shape.samples, entry.shape.length,
           entry.shape.width);
    }
  });
  read_state_file(state_->comm, state_->directory, entry, mine, put);
}

void PackedWriter::write_rest(const TensorSource& source, const std::vector<std::string>& names) {
  const RestFile rest = write_rest_file(state_->comm, state_->directory, source, names);
  state_->manifest["rest"] = json::object();
  for (const RestEntry& entry : rest.tensors) {
    state_->manifest["rest"][entry.info.name] = to_json(entry);
  }
  state_->manifest["rest_frame"] = rest.frame;
  state_->save_manifest();
}

void PackedWriter::finish(const json& report) {
  state_->on_root([&] {
    const fs::path& directory = state_->directory;
    json& manifest = state_->manifest;
    write_model_file(directory / model_file_name, manifest);
    write_text(directory / report_file_name, json_text(report));
    for (const char* file : {model_file_name, report_file_name}) {
      manifest["files"][file] = digest_file(directory / file);
    }
    manifest["digest"] = model_digest(parse_blocks(manifest, directory.string()));
    if (state_->keep != KeepStates::all) state_->states() = json::array();
    manifest["complete"] = true;
  });
  state_->save_manifest();
  state_->remove_unlisted();
}

}  // namespace quip

#include "quip/store/packed_model.hpp"

#include "block_file.hpp"
#include "packed_state.hpp"

#include "quip/core/error.hpp"

namespace quip {

namespace fs = std::filesystem;

const File& PackedModel::State::rest_holding(const RestEntry& tensor) {
  const fs::path path = directory / rest_file_name;
  std::call_once(opened_, [&] {
    require_rest_frame(path, manifest);
    rest_.emplace(File::open_read(path));
  });
  std::call_once(whole_tensors_.at(tensor.info.name),
                 [&] { require_tensor(*rest_, tensor, path.string()); });
  return *rest_;
}

fs::path PackedModel::State::whole_block_file(std::size_t block) {
  const BlockEntry& entry = manifest.blocks[block];
  fs::path file = directory / entry.file;
  std::call_once(whole_[block], [&] { require_digest(file, entry.file_digest); });
  return file;
}

PackedModel::PackedModel(const fs::path& directory, Unfinished unfinished)
    : state_(std::make_unique<State>(directory, read_manifest(directory))) {
  if (!manifest_intact(directory)) {
    fail("{}: was changed after it was written; quip quantize --repair makes it anew",
         (directory / manifest_file_name).string());
  }
  if (unfinished == Unfinished::refused) require_complete(state_->manifest, directory);
  const auto& blocks = state_->manifest.blocks;
  for (std::size_t b = 0; b < blocks.size(); ++b) {
    for (std::size_t l = 0; l < blocks[b].layers.size(); ++l) {
      if (!state_->places.emplace(blocks[b].layers[l], LayerPlace{b, l}).second) {
        fail("{}: the manifest lists layer {} twice", directory.string(), blocks[b].layers[l]);
      }
    }
  }
}

PackedModel::~PackedModel() = default;

const nlohmann::json& PackedModel::manifest() const { return state_->manifest.document; }

const std::vector<BlockEntry>& PackedModel::blocks() const { return state_->manifest.blocks; }

bool PackedModel::is_quantized(const std::string& layer) const {
  return state_->places.contains(layer);
}

StoredLayer PackedModel::read_layer(const std::string& layer) const {
  const auto place = state_->places.find(layer);
  if (place == state_->places.end()) fail("{}: has no quantized layer {}", describe(), layer);
  const auto& [block, index] = place->second;
  return read_block_layer(state_->whole_block_file(block), layer, blocks()[block].digests[index]);
}

std::string PackedModel::digest() const { return model_digest(blocks()); }

index_t PackedModel::bytes_on_disk() const {
  index_t bytes = 0;
  for (const auto& entry : fs::recursive_directory_iterator(state_->directory)) {
    if (entry.is_regular_file()) bytes += static_cast<index_t>(entry.file_size());
  }
  return bytes;
}

std::vector<std::string> PackedModel::names() const {
  std::vector<std::string> names;
  names.reserve(state_->manifest.rest.size());
  for (const auto& entry : state_->manifest.rest) names.push_back(entry.first);
  return names;
}

bool PackedModel::contains(const std::string& name) const {
  return state_->manifest.rest.contains(name);
}

const TensorInfo& PackedModel::info(const std::string& name) const {
  const auto entry = state_->manifest.rest.find(name);
  if (entry == state_->manifest.rest.end()) {
    fail("{}: has no tensor {}{}", describe(), name,
         name.ends_with(".weight") && is_quantized(name.substr(0, name.size() - 7))
             ? " as such: it is quantized"
             : "");
  }
  return entry->second.info;
}

void PackedModel::read(const std::string& name, index_t offset, std::span<std::byte> out) const {
  require_range(*this, info(name), offset, std::ssize(out));
  if (out.empty()) return;
  const RestEntry& entry = state_->manifest.rest.at(name);
  state_->rest_holding(entry).read_at(out, entry.offset + offset);
}

std::string PackedModel::describe() const { return state_->directory.string(); }

}  // namespace quip

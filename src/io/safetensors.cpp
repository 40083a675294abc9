#include "quip/io/safetensors.hpp"

#include <cstring>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "incomplete_download.hpp"
#include "mapped_file.hpp"
#include "safetensors_header.hpp"

#include "quip/core/error.hpp"
#include "quip/core/usage.hpp"
#include "quip/io/json.hpp"

namespace quip {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

constexpr const char* single_file = "model.safetensors";
// A shorter read is one of many that lie close together: their pages stay.
constexpr index_t release_bytes = index_t{1} << 20;

std::string_view text_of(const MappedFile& file) {
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

/// Serves the tensors of one or more mapped files as one set.
class SafetensorsSource final : public TensorSource {
 public:
  explicit SafetensorsSource(fs::path origin) : origin_(std::move(origin)) {}

  /// Maps a file and adds its tensors. Throws Error if one is there already.
  void add(const fs::path& file) {
    files_.emplace_back(file);
    paths_.push_back(file.string());
    const std::size_t index = files_.size() - 1;
    refuse_placeholder(text_of(files_[index]), paths_[index]);
    for (auto& [name, entry] : parse_header(files_[index].bytes(), paths_[index])) {
      const auto [where, inserted] = tensors_.try_emplace(name, Located{index, std::move(entry)});
      if (!inserted) {
        fail("{}: tensor {} is also in {}", paths_[index], name, paths_[where->second.file]);
      }
    }
  }

  /// Throws Error unless tensor `name` came from `file`.
  void require_in(const fs::path& file, const std::string& name, const fs::path& index) const {
    const auto found = tensors_.find(name);
    if (found == tensors_.end() || paths_[found->second.file] != file.string()) {
      fail("{}: tensor {} is not there, although {} says so", file.string(), name, index.string());
    }
  }

  [[nodiscard]] std::vector<std::string> names() const override {
    std::vector<std::string> names;
    names.reserve(tensors_.size());
    for (const auto& tensor : tensors_) names.push_back(tensor.first);
    return names;
  }

  [[nodiscard]] bool contains(const std::string& name) const override {
    return tensors_.contains(name);
  }

  [[nodiscard]] const TensorInfo& info(const std::string& name) const override {
    return locate(name).entry.info;
  }

  void read(const std::string& name, index_t offset, std::span<std::byte> out) const override {
    const Located& tensor = locate(name);
    const index_t count = std::ssize(out);
    require_range(*this, tensor.entry.info, offset, count);
    if (count == 0) return;
    const MappedFile& file = files_[tensor.file];
    const index_t position = tensor.entry.begin + offset;
    std::memcpy(out.data(), file.bytes().data() + position, out.size());
    UsageMeter::current().add_read(count);
    if (count >= release_bytes) file.release(position, count);
  }

  void fetch(const std::string& name, index_t offset, index_t bytes) const override {
    const Located& tensor = locate(name);
    files_[tensor.file].fetch(tensor.entry.begin + offset, bytes);
  }

  [[nodiscard]] std::string describe() const override { return origin_.string(); }

 private:
  struct Located {
    std::size_t file;
    HeaderEntry entry;
  };

  [[nodiscard]] const Located& locate(const std::string& name) const {
    const auto found = tensors_.find(name);
    if (found == tensors_.end()) fail("tensor {} is not in {}", name, describe());
    return found->second;
  }

  fs::path origin_;
  std::vector<MappedFile> files_;
  std::vector<std::string> paths_;
  std::map<std::string, Located> tensors_;
};

/// Returns the index's "weight_map", tensor name → file name, after checking it.
std::map<std::string, std::string> read_weight_map(const fs::path& index) {
  const MappedFile file(index);
  const json document = parse_json(text_of(file), index.string());
  const auto map = document.is_object() ? document.find("weight_map") : document.end();
  if (map == document.end() || !map->is_object() || map->empty()) {
    fail("{}: \"weight_map\" is missing, empty or not an object", index.string());
  }
  std::map<std::string, std::string> result;
  for (const auto& [name, value] : map->items()) {
    if (!value.is_string()) fail("{}: tensor {}: its file is not a string", index.string(), name);
    const auto shard = value.get<std::string>();
    // Names only: a path could lead out of the checkpoint's directory.
    if (shard.empty() || shard == "." || shard == ".." || shard.find('\0') != std::string::npos ||
        shard.find_first_of("/\\") != std::string::npos) {
      fail("{}: tensor {}: {} is not the name of a file in this directory", index.string(), name,
           shown(value));
    }
    result.emplace(name, shard);
  }
  return result;
}

std::unique_ptr<TensorSource> open_shards(const fs::path& directory, const fs::path& index,
                                          std::vector<std::string>* remarks) {
  const auto weight_map = read_weight_map(index);
  std::set<std::string> shards;
  for (const auto& [name, file] : weight_map) shards.insert(file);
  auto source = std::make_unique<SafetensorsSource>(directory);
  for (const std::string& shard : shards) {
    std::error_code ignored;  // such as a name that is too long for the file system
    if (!fs::exists(directory / shard, ignored)) {
      fail("{}: shard {} {}; download it again", index.string(), shard,
           why_absent(directory / shard));
    }
    source->add(directory / shard);
  }
  for (const auto& [name, file] : weight_map) source->require_in(directory / file, name, index);
  if (remarks != nullptr && !shards.contains(single_file) && fs::exists(directory / single_file)) {
    remarks->push_back(fmt::format("{}: is not read: {} names other files",
                                   (directory / single_file).string(), index.filename().string()));
  }
  return source;
}

}  // namespace

std::unique_ptr<TensorSource> open_safetensors(const fs::path& file) {
  auto source = std::make_unique<SafetensorsSource>(file);
  source->add(file);
  return source;
}

std::unique_ptr<TensorSource> open_checkpoint(const fs::path& directory,
                                              std::vector<std::string>* remarks) {
  const fs::path index = directory / "model.safetensors.index.json";
  if (fs::exists(index)) return open_shards(directory, index, remarks);
  const fs::path single = directory / single_file;
  if (fs::exists(single)) return open_safetensors(single);
  fail("{}: {}", directory.string(), what_is_there(directory));
}

}  // namespace quip

#include "incomplete_download.hpp"

#include <algorithm>
#include <cctype>
#include <map>
#include <system_error>

#include "quip/core/error.hpp"

namespace quip {
namespace {

namespace fs = std::filesystem;

/// The first file (by name) of each extension.
std::map<std::string, std::string> files_by_extension(const fs::path& directory) {
  std::map<std::string, std::string> found;
  std::error_code ignored;  // a directory that cannot be listed: nothing is known
  for (const fs::directory_entry& entry : fs::directory_iterator(directory, ignored)) {
    const std::string name = entry.path().filename().string();
    std::string& first = found[entry.path().extension().string()];
    if (first.empty() || name < first) first = name;
  }
  return found;
}

}  // namespace

std::string why_absent(const fs::path& path) {
  std::error_code ignored;
  if (!fs::is_symlink(path, ignored)) return "is missing";
  return fmt::format("is a link to {}, which is missing", fs::read_symlink(path).string());
}

std::string what_is_there(const fs::path& directory) {
  for (const char* name : {"model.safetensors", "model.safetensors.index.json"}) {
    if (fs::exists(directory / name)) return "the weights are there: download it, too";
    if (!fs::is_symlink(directory / name)) continue;
    return fmt::format("{} {}; download it again", name, why_absent(directory / name));
  }
  const auto files = files_by_extension(directory);
  if (const auto shard = files.find(".safetensors"); shard != files.end()) {
    return fmt::format(
        "there are shards ({}) but no index: download model.safetensors.index.json, too",
        shard->second);
  }
  if (const auto gguf = files.find(".gguf"); gguf != files.end()) {
    return fmt::format(
        "{} is of another program's format: download the checkpoint it was made from, in "
        "safetensors",
        gguf->second);
  }
  for (const char* extension : {".bin", ".pt", ".pth", ".ckpt", ".msgpack"}) {
    if (const auto weights = files.find(extension); weights != files.end()) {
      return fmt::format(
          "{} is no safetensors file: load the model with transformers and save it by "
          "save_pretrained",
          weights->second);
    }
  }
  return "holds neither model.safetensors nor model.safetensors.index.json; is this a Hugging Face "
         "model directory?";
}

void refuse_placeholder(std::string_view text, const std::string& origin) {
  if (text.starts_with("version https://git-lfs.")) {
    fail("{}: is a git-lfs pointer, not the file: run git lfs pull there", origin);
  }
  std::string start(text.substr(0, 14));
  std::ranges::transform(start, start.begin(), [](unsigned char c) { return std::tolower(c); });
  if (start == "<!doctype html" || start.starts_with("<html")) {
    fail(
        "{}: is an HTML page, not the file: download it again (after hf auth login, if the model "
        "asks for it)",
        origin);
  }
}

}  // namespace quip

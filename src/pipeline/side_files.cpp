#include "side_files.hpp"

#include <algorithm>
#include <array>
#include <string_view>

#include "io/files.hpp"

#include "quip/core/error.hpp"

namespace quip {
namespace {

namespace fs = std::filesystem;

/// Endings of files of weights, in the formats of all frameworks, and of their indexes.
constexpr std::array<std::string_view, 22> weights = {
    ".safetensors", ".index.json", ".bin",        ".pt",      ".pth",  ".ckpt",
    ".gguf",        ".ggml",       ".h5",         ".hdf5",    ".ot",   ".msgpack",
    ".npy",         ".npz",        ".pb",         ".tflite",  ".onnx", ".onnx_data",
    ".nemo",        ".keras",      ".incomplete", ".pdparams"};

/// Folders of caches and of version control.
constexpr std::array<std::string_view, 7> folders = {
    ".cache", ".huggingface", ".ipynb_checkpoints", "__pycache__", ".git", ".hg", ".svn"};

bool holds_weights(const std::string& name) {
  return std::ranges::any_of(weights, [&](auto ending) { return name.ends_with(ending); });
}

bool passed_over(const fs::path& folder, const std::vector<fs::path>& others) {
  if (std::ranges::count(folders, folder.filename().string()) > 0) return true;
  return std::ranges::any_of(others, [&](const fs::path& other) {
    std::error_code missing;
    return fs::equivalent(folder, other, missing);
  });
}

}  // namespace

std::vector<fs::path> list_side_files(const fs::path& model, const std::vector<fs::path>& others) {
  std::vector<fs::path> files;
  fs::recursive_directory_iterator entry(model, fs::directory_options::follow_directory_symlink);
  for (; entry != fs::recursive_directory_iterator(); ++entry) {
    const fs::path& path = entry->path();
    if (entry->is_directory()) {
      if (passed_over(path, others)) entry.disable_recursion_pending();
      continue;
    }
    const fs::path name = path.lexically_relative(model);
    if (name == "config.json" || holds_weights(name.string())) continue;
    if (!entry->is_regular_file()) {
      fail("{}: no regular file, or a link to one that is missing; download it again or remove it",
           path.string());
    }
    (void)File::open_read(path);
    files.push_back(name);
  }
  std::ranges::sort(files);
  return files;
}

}  // namespace quip

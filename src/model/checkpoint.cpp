#include "quip/model/checkpoint.hpp"

#include <charconv>
#include <optional>
#include <set>

#include "quip/core/error.hpp"
#include "quip/io/safetensors.hpp"

namespace quip {
namespace {

std::set<std::string> used_by(const Family& family) {
  std::set<std::string> names = {family.embedding().name, family.head().name};
  for (const TensorSpec& tensor : family.end_tensors()) names.insert(tensor.name);
  for (index_t block = 0; block < family.config().blocks; ++block) {
    for (const TensorSpec& tensor : family.block_tensors(block)) names.insert(tensor.name);
    for (const LinearSpec& linear : family.linears(block)) names.insert(linear.name + ".weight");
  }
  return names;
}

/// True for what transformers, too, leaves aside without a word: tables that old versions stored,
/// and the copy that a tied head is.
bool is_known_surplus(const std::string& name, const ModelConfig& config) {
  return name.ends_with("rotary_emb.inv_freq") || (config.tied_head && name == "lm_head.weight");
}

/// True if a name with the blocks' `prefix` ("model.layers.") lies in one of the first `blocks`.
bool in_a_block(const std::string& name, const std::string& prefix, index_t blocks) {
  if (!name.starts_with(prefix)) return false;
  index_t number = blocks;
  std::from_chars(name.data() + prefix.size(), name.data() + name.size(), number);
  return number < blocks;
}

std::string list_of(const std::vector<std::string>& names) {
  constexpr std::size_t kShown = 3;
  std::string text = names.size() == 1 ? "tensor " : fmt::format("{} tensors (", names.size());
  for (std::size_t i = 0; i < std::min(names.size(), kShown); ++i) {
    text += (i == 0 ? "" : ", ") + names[i];
  }
  if (names.size() > kShown) text += ", …";
  return names.size() == 1 ? text : text + ")";
}

}  // namespace

Checkpoint open_model_directory(const std::filesystem::path& directory, bool allow_unused) {
  const ModelConfig config = read_config(directory);
  Checkpoint opened;
  opened.source = open_checkpoint(directory, &opened.remarks);
  opened.family = make_family(config, *opened.source);
  if (config.custom_code) {
    opened.remarks.push_back(fmt::format(
        "{}: config.json names code of the model's own (auto_map), which is not run: it is taken "
        "for a {}",
        directory.string(), config.architecture));
  }
  const std::set<std::string> used = used_by(*opened.family);
  const std::string first = opened.family->linears(0).front().name;
  const std::string prefix = first.substr(0, first.find(".0.") + 1);
  std::vector<std::string> in_blocks;
  std::vector<std::string> elsewhere;
  for (const std::string& name : opened.source->names()) {
    if (used.contains(name) || is_known_surplus(name, config)) continue;
    (in_a_block(name, prefix, config.blocks) ? in_blocks : elsewhere).push_back(name);
  }
  if (!in_blocks.empty()) {
    const std::string text = fmt::format("{}: no {} uses {} of its blocks", directory.string(),
                                         config.architecture, list_of(in_blocks));
    if (!allow_unused) {
      fail("{}: the model is probably not what config.json says; --allow-unused takes it as that",
           text);
    }
    opened.remarks.push_back(text);
  }
  if (!elsewhere.empty()) {
    opened.remarks.push_back(fmt::format("{}: no {} uses {}; they are kept as they are",
                                         directory.string(), config.architecture,
                                         list_of(elsewhere)));
  }
  return opened;
}

}  // namespace quip

#include "quip/model/checkpoint.hpp"

#include <algorithm>
#include <charconv>
#include <set>
#include <span>

#include <fmt/ranges.h>

#include "quip/core/error.hpp"
#include "quip/io/safetensors.hpp"

namespace quip {
namespace {

/// True for what transformers, too, leaves aside without a word: tables that old versions stored,
/// and the copy that a tied head is.
bool is_known_surplus(const std::string& name, const ModelConfig& config) {
  return name.ends_with("rotary_emb.inv_freq") || (config.tied_head && name == config.head);
}

/// True if a name with the blocks' `prefix` ("model.layers.") lies in one of the first `blocks`.
bool in_a_block(const std::string& name, const std::string& prefix, index_t blocks) {
  if (!name.starts_with(prefix)) return false;
  index_t number = blocks;
  std::from_chars(name.data() + prefix.size(), name.data() + name.size(), number);
  return number < blocks;
}

std::string list_of(const std::vector<std::string>& names) {
  constexpr std::size_t shown = 3;
  if (names.size() == 1) return "tensor " + names.front();
  const auto first = std::span(names).first(std::min(names.size(), shown));
  return fmt::format("{} tensors ({}{})", names.size(), fmt::join(first, ", "),
                     names.size() > shown ? ", …" : "");
}

/// Adds remarks on tensors that nothing uses. Throws Error for those in blocks unless `allowed`.
void judge_unused(const std::string& where, bool allowed, Checkpoint& opened) {
  const ModelConfig& config = opened.family->config();
  std::set<std::string> used;
  for_each_tensor(*opened.family, [&](const TensorSpec& tensor) { used.insert(tensor.name); });
  const std::string first = opened.family->linears(0).front().name;
  const std::string prefix = first.substr(0, first.find(".0.") + 1);
  std::vector<std::string> in_blocks;
  std::vector<std::string> elsewhere;
  for (const std::string& name : opened.source->names()) {
    if (used.contains(name) || is_known_surplus(name, config)) continue;
    (in_a_block(name, prefix, config.blocks) ? in_blocks : elsewhere).push_back(name);
  }
  const auto say = [&](const std::vector<std::string>& names, const char* rest) {
    return fmt::format("{}: no {} uses {}{}", where, config.architecture, list_of(names), rest);
  };
  if (!in_blocks.empty() && !allowed) {
    throw Error(say(in_blocks,
                    " of its blocks: the model is probably not what config.json says; "
                    "--allow-unused takes it as that"));
  }
  if (!in_blocks.empty()) opened.remarks.push_back(say(in_blocks, " of its blocks"));
  if (!elsewhere.empty()) {
    opened.remarks.push_back(say(elsewhere, elsewhere.size() == 1 ? "; it is kept as it is"
                                                                  : "; they are kept as they are"));
  }
}

/// Presents the tensors that the model has as numbers, whatever they are stored as.
std::unique_ptr<TensorSource> decode(const ModelConfig& config,
                                     std::unique_ptr<TensorSource> stored) {
  if (config.format.kind == WeightFormat::Kind::plain) return stored;
  std::set<std::string> wanted;
  for_each_tensor(*make_unchecked_family(config, *stored),
                  [&](const TensorSpec& tensor) { wanted.insert(tensor.name); });
  return decode_weights(std::move(stored), config.format, wanted);
}

}  // namespace

void remark_on_head(const ModelConfig& config, const Family& family,
                    std::vector<std::string>& remarks) {
  if (!config.tied_head || family.config().tied_head) return;
  remarks.emplace_back(
      "config.json says tie_word_embeddings, but lm_head.weight differs from the embedding: the "
      "head is lm_head.weight");
}

Checkpoint open_model_directory(const std::filesystem::path& directory, bool allow_unused) {
  const ModelConfig config = read_config(directory);
  Checkpoint opened;
  opened.source = decode(config, open_checkpoint(directory, &opened.remarks));
  opened.family = make_family(config, *opened.source);
  if (config.custom_code) {
    opened.remarks.push_back(fmt::format(
        "{}: config.json names code of the model's own (auto_map), which is not run: it is taken "
        "for a {}",
        directory.string(), config.architecture));
  }
  remark_on_head(config, *opened.family, opened.remarks);
  judge_unused(directory.string(), allow_unused, opened);
  return opened;
}

}  // namespace quip

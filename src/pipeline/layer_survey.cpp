#include "layer_survey.hpp"

#include <algorithm>
#include <map>

#include "quip/core/error.hpp"
#include "quip/core/memory.hpp"
#include "quip/core/name_pattern.hpp"
#include "quip/pipeline/narrow_layers.hpp"

namespace quip {
namespace {

void look_at(const LinearSpec& linear, const LayerOptions& layer, const WideOptions& wide,
             int ranks, LayerSurvey& survey) {
  survey.quantized.insert(linear.stored.tensor);
  survey.widest = std::max(survey.widest, linear.cols);
  if (linear.expert >= 0 || !wide.covers(linear.cols)) return;
  wide.check(linear.name, linear.cols, layer, ranks);
  survey.wide.insert(linear.cols);
}

}  // namespace

std::string note_on_groups(const std::vector<std::pair<LinearSpec, LayerOptions>>& layers) {
  std::string first;
  int others = -1;
  for (const auto& [linear, options] : layers) {
    const index_t rest = options.group_size > 0 ? linear.cols % options.group_size : 0;
    if (rest == 0 || ++others > 0) continue;
    first = fmt::format("layer {}: {} columns in groups of {} leave a last group of {}",
                        linear.name, linear.cols, options.group_size, rest);
  }
  if (first.empty()) return {};
  return fmt::format(
      "{}{}; engines that want whole groups cannot load this: choose a --group-size that divides "
      "them",
      first, others > 0 ? fmt::format(" (and {} more layers)", others) : "");
}

namespace {

/// Throws Error for a layer that the format cannot hold.
void require_fit(const ExportFormat& format, const LayerList& layers) {
  for (const auto& [linear, options] : layers) {
    const std::string reason = format.misfit(described(options, linear.rows, linear.cols));
    if (reason.empty()) continue;
    fail("layer {}: --format {}, which --for asks for, cannot hold it: {}", linear.name,
         format.name(), reason);
  }
}

/// Returns a note on layers that engines cut by inputs, groups and all, where a group would be cut;
/// empty if there are none or the model is for no engine.
std::string note_on_parts(const QuantizeOptions& options, const LayerList& layers) {
  constexpr index_t most_parts = 8;
  if (options.export_format == nullptr) return {};
  index_t parts = most_parts;
  const LinearSpec* narrowest = nullptr;
  index_t group = 0;
  for (const auto& [linear, own] : layers) {
    if (own.group_size == 0 || !linear.adds) continue;
    while (linear.cols % (parts * own.group_size) != 0 && parts > 1) {
      parts /= 2;
      narrowest = &linear;
      group = own.group_size;
    }
  }
  if (narrowest == nullptr) return {};
  return fmt::format(
      "layer {}: groups of {} of its {} inputs can be cut among {} at most: engines serve this "
      "with --tensor-parallel-size up to {}; a smaller --group-size allows more",
      narrowest->name, group, narrowest->cols, parts, parts);
}

}  // namespace

std::vector<std::vector<LinearSpec>> QuantizeOptions::selected(const Family& family,
                                                               Range range) const {
  std::vector<std::vector<LinearSpec>> by_block;
  for (index_t b = range.first; b < range.last; ++b) by_block.push_back(family.linears(b));
  if (skip.empty()) return by_block;
  const NamePattern pattern(skip, "--skip");  // once: that takes longer than matching a block
  for (auto& linears : by_block) {
    std::erase_if(linears, [&](const LinearSpec& linear) { return pattern.matches(linear.name); });
  }
  return by_block;
}

LayerSurvey survey_layers(const Family& family, const QuantizeOptions& options, int ranks) {
  LayerSurvey survey;
  std::vector<std::pair<LinearSpec, LayerOptions>> layers;
  std::vector<std::string> names;
  std::size_t all = 0;
  const Range blocks{0, family.config().blocks};
  const auto selected = options.selected(family, blocks);
  for (index_t b = 0; b < blocks.last; ++b) {
    all += family.linears(b).size();
    for (const LinearSpec& linear : selected[at(b)]) {
      names.push_back(linear.name);
      look_at(linear, layers.emplace_back(linear, options.of(linear.name)).second, options.wide,
              ranks, survey);
    }
    // A tensor stays as a whole where one of the linears that share it does.
    for (const LinearSpec& linear : family.linears(b)) {
      if (std::ranges::find(selected[at(b)], linear.name, &LinearSpec::name) ==
          selected[at(b)].end()) {
        survey.quantized.erase(linear.stored.tensor);
      }
    }
  }
  if (names.empty()) fail("--skip '{}' leaves nothing to quantize", options.skip);
  if (!options.skip.empty() && names.size() == all) {
    fail("--skip '{}' matches no layer; they have names like {}", options.skip, names.front());
  }
  options.overrides.check_used(names);
  if (options.wide.process_grid && survey.wide.empty()) {
    fail("--process-grid {}: no layer has the {} inputs of --wide; lower that or leave this out",
         to_string(*options.wide.process_grid), options.wide.inputs);
  }
  if (options.export_format != nullptr) require_fit(*options.export_format, layers);
  for (std::string note : {note_on_groups(layers), note_on_parts(options, layers)}) {
    if (!note.empty()) survey.notes.push_back(std::move(note));
  }
  return survey;
}

void check_hessian_memory(const Collectives& comm, const Family& family,
                          const QuantizeOptions& options) {
  for (const auto& linears : options.selected(family, {0, family.config().blocks})) {
    std::map<int, index_t> narrow;  // by tap
    for (const LinearSpec& linear : linears) {
      if (linear.expert < 0 && !options.wide.covers(linear.cols)) narrow[linear.tap] = linear.cols;
    }
    std::vector<index_t> orders;  // a block's Hessians, or with --true-sequential one at a time
    orders.reserve(narrow.size());
    for (const auto& [tap, order] : narrow) orders.push_back(order);
    if (options.sequential() && !orders.empty()) {
      orders = {*std::max_element(orders.begin(), orders.end())};
    }
    options.wide.check_memory(std::move(orders), installed_memory(), comm.place().size);
  }
}

std::vector<std::string> remaining_tensors(const TensorSource& source,
                                           const std::set<std::string>& quantized) {
  std::vector<std::string> names;
  for (const std::string& name : source.names()) {
    if (!quantized.contains(name)) names.push_back(name);
  }
  return names;
}

}  // namespace quip

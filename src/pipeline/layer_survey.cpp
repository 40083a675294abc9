#include "layer_survey.hpp"

#include <algorithm>
#include <map>

#include "quip/core/error.hpp"
#include "quip/core/memory.hpp"

namespace quip {
namespace {

void look_at(const std::vector<LinearSpec>& linears, const Collectives& comm,
             const QuantizeOptions& options, LayerSurvey& survey) {
  std::map<int, index_t> narrow;  // by tap
  for (const LinearSpec& linear : linears) {
    survey.quantized.insert(linear.name + ".weight");
    survey.widest = std::max(survey.widest, linear.cols);
    const LayerOptions layer = options.overrides.apply(options.layer, linear.name);
    if (options.wide.covers(linear.cols)) {
      options.wide.check(linear.name, linear.cols, layer, comm.size());
      survey.wide.insert(linear.cols);
    } else {
      narrow[linear.tap] = linear.cols;
    }
  }
  std::vector<index_t> orders;  // a block's Hessians, or with --true-sequential one at a time
  for (const auto& [tap, order] : narrow) orders.push_back(order);
  if (options.true_sequential && !orders.empty()) {
    orders = {*std::max_element(orders.begin(), orders.end())};
  }
  options.wide.check_memory(std::move(orders), installed_memory(), comm.place().size);
}

}  // namespace

LayerSurvey survey_layers(const Collectives& comm, const BlockQuantizer& quantizer, index_t blocks,
                          const QuantizeOptions& options) {
  LayerSurvey survey;
  for (index_t b = 0; b < blocks; ++b) look_at(quantizer.selected(b), comm, options, survey);
  if (survey.quantized.empty()) fail("--skip '{}' leaves nothing to quantize", options.skip);
  if (options.wide.process_grid && survey.wide.empty()) {
    fail("--process-grid {}: no layer has the {} inputs of --wide; lower that or leave this out",
         to_string(*options.wide.process_grid), options.wide.inputs);
  }
  return survey;
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

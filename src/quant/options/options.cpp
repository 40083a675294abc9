#include "quip/quant/options/options.hpp"

#include <array>
#include <utility>

#include "core/names.hpp"

namespace quip {
namespace {

constexpr int default_passes = 5;  // of methods that consist of them

constexpr Names<Method, 6> method_names{{{Method::nearest, "nearest"},
                                         {Method::ldlq, "ldlq"},
                                         {Method::optq, "optq"},
                                         {Method::ldlq_rg, "ldlq-rg"},
                                         {Method::greedy, "greedy"},
                                         {Method::ldl_admm, "ldl-admm"}}};
constexpr Names<Processing, 2> processing_names{
    {{Processing::baseline, "baseline"}, {Processing::incoherence, "incoherence"}}};
constexpr Names<ColumnOrder, 2> order_names{
    {{ColumnOrder::backward, "backward"}, {ColumnOrder::forward, "forward"}}};
constexpr Names<Rounding, 2> rounding_names{
    {{Rounding::nearest, "nearest"}, {Rounding::stochastic, "stochastic"}}};
constexpr Names<GroupFit, 2> group_fit_names{
    {{GroupFit::fixed, "static"}, {GroupFit::dynamic, "dynamic"}}};
constexpr Names<Clamp, 2> clamp_names{{{Clamp::pre, "pre"}, {Clamp::feedback, "feedback"}}};

}  // namespace

std::string to_string(Method method) { return name_of(method, method_names); }
std::string to_string(Processing processing) { return name_of(processing, processing_names); }
std::string to_string(Clamp clamp) { return name_of(clamp, clamp_names); }
std::string to_string(ColumnOrder order) { return name_of(order, order_names); }
std::string to_string(Rounding rounding) { return name_of(rounding, rounding_names); }
std::string to_string(GroupFit fit) { return name_of(fit, group_fit_names); }

Method parse_method(const std::string& text) { return parse_name(text, method_names, "--method"); }
Processing parse_processing(const std::string& text) {
  return parse_name(text, processing_names, "--processing");
}
Clamp parse_clamp(const std::string& text) { return parse_name(text, clamp_names, "--clamp"); }
ColumnOrder parse_order(const std::string& text) {
  return parse_name(text, order_names, "--order");
}
Rounding parse_rounding(const std::string& text) {
  return parse_name(text, rounding_names, "--rounding");
}
GroupFit parse_group_fit(const std::string& text) {
  return parse_name(text, group_fit_names, "--groups");
}

bool takes_passes(Method method) { return method != Method::nearest && method != Method::optq; }

int LayerOptions::effective_passes() const {
  if (!takes_passes(method)) return 0;
  const bool made_of_them = method == Method::ldlq_rg || method == Method::greedy;
  return passes.value_or(made_of_them ? default_passes : 0);
}

GroupFit LayerOptions::effective_groups() const {
  const bool grids_first = method != Method::optq || act_order || clamp == Clamp::pre;
  if (group_size == 0) return GroupFit::fixed;
  return groups.value_or(grids_first ? GroupFit::fixed : GroupFit::dynamic);
}

QuantizedLinear described(const LayerOptions& options, index_t rows, index_t cols) {
  QuantizedLinear layer;
  layer.rows = rows;
  layer.cols = cols;
  layer.bits = options.bits;
  layer.grid = options.grid();
  layer.transform = options.effective_transform();
  layer.group_size = options.group_size;
  layer.symmetric = options.symmetric;
  layer.rescaled = options.rescale();
  return layer;
}

}  // namespace quip

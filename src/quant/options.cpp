#include "quip/quant/options.hpp"

#include <array>
#include <utility>

#include "names.hpp"

namespace quip {
namespace {

constexpr Names<Method, 2> method_names{{{Method::nearest, "nearest"}, {Method::ldlq, "ldlq"}}};
constexpr Names<Processing, 2> processing_names{
    {{Processing::baseline, "baseline"}, {Processing::incoherence, "incoherence"}}};
constexpr Names<Clamp, 2> clamp_names{{{Clamp::pre, "pre"}, {Clamp::feedback, "feedback"}}};

}  // namespace

std::string to_string(Method method) { return name_of(method, method_names); }
std::string to_string(Processing processing) { return name_of(processing, processing_names); }
std::string to_string(Clamp clamp) { return name_of(clamp, clamp_names); }

Method parse_method(const std::string& text) { return parse_name(text, method_names, "--method"); }
Processing parse_processing(const std::string& text) {
  return parse_name(text, processing_names, "--processing");
}
Clamp parse_clamp(const std::string& text) { return parse_name(text, clamp_names, "--clamp"); }

}  // namespace quip

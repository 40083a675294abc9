#include "quip/quant/options/option_table.hpp"

#include <algorithm>
#include <utility>
#include <vector>

#include "core/names.hpp"

namespace quip {
namespace {

constexpr Names<Processing, 2> processing_names{
    {{Processing::baseline, "baseline"}, {Processing::incoherence, "incoherence"}}};
constexpr Names<ColumnOrder, 3> order_names{{{ColumnOrder::backward, "backward"},
                                             {ColumnOrder::forward, "forward"},
                                             {ColumnOrder::act, "act"}}};
constexpr Names<ScaleType, 3> scale_type_names{
    {{ScaleType::fp32, "fp32"}, {ScaleType::fp16, "fp16"}, {ScaleType::bf16, "bf16"}}};
constexpr Names<Rounding, 2> rounding_names{
    {{Rounding::nearest, "nearest"}, {Rounding::stochastic, "stochastic"}}};
constexpr Names<GroupFit, 2> group_fit_names{
    {{GroupFit::fixed, "static"}, {GroupFit::dynamic, "dynamic"}}};
constexpr Names<Clamp, 2> clamp_names{{{Clamp::pre, "pre"}, {Clamp::feedback, "feedback"}}};
constexpr Names<TrellisFeedback, 2> trellis_feedback_names{
    {{TrellisFeedback::tile, "tile"}, {TrellisFeedback::step, "step"}}};
constexpr Names<bool, 2> switch_names{{{true, "on"}, {false, "off"}}};
constexpr auto method_names = [] {
  Names<Method, methods.size()> names{};
  for (std::size_t i = 0; i < methods.size(); ++i) names[i] = {methods[i].method, methods[i].name};
  return names;
}();

// --- from text ---

template <const auto& Known>
auto named(const std::string& text) {
  return parse_name(text, Known);
}

template <typename Number>
Number number(const std::string& text) {
  return parse_number<Number>(text);
}

double parse_damping(const std::string& text) { return parse_number(text, 0.0, 1e6); }

/// Parses a number in units of rms(W): beyond these bounds nothing is left of a grid.
double parse_rho(const std::string& text) { return parse_number(text, 1e-6, 1e6); }

/// Parses a choice, or `auto`, which leaves it to the method or to the bundle of steps.
template <auto Parse>
auto or_auto(const std::string& text) {
  return parse_or(text, "auto", Parse);
}

int parse_bits(const std::string& text) {
  const int bits = parse_number<int>(text);
  if (bits < 1 || bits > trellis::max_bits) fail("must be 2, 3, 4 or 8");
  return bits;
}

index_t parse_group_size(const std::string& text) {
  if (text == "0") fail("must be row, or 8 or more");
  return parse_or(text, "row", number<index_t>).value_or(0);
}

// --- where options belong ---

bool takes_order(const MethodTraits& method) { return method.columns == Columns::by_order; }
bool takes_act_order(const MethodTraits& method) { return method.columns == Columns::by_act_order; }
bool takes_passes(const MethodTraits& method) { return method.passes != Passes::never; }

std::string name_of_codebook(const LayerOptions& options) {
  return to_string(options.has_trellis() ? CodebookKind::trellis : CodebookKind::scalar);
}

template <CodebookKind Codebook>
std::string unless_codebook(const LayerOptions& options) {
  if (options.has_trellis() == (Codebook == CodebookKind::trellis)) return {};
  return fmt::format("belongs to --codebook {} and does not go with --codebook {}",
                     to_string(Codebook), name_of_codebook(options));
}
constexpr auto scalar_only = unless_codebook<CodebookKind::scalar>;

std::string unless_feedback_of_trellis(const LayerOptions& options) {
  if (!options.has_trellis()) return unless_codebook<CodebookKind::trellis>(options);
  if (options.feedback() == Feedback::factor) return {};
  return fmt::format("belongs to --method ldlq and does not go with --method {}",
                     to_string(options.method));
}

template <bool (*Have)(const MethodTraits&)>
std::string unless_method(const LayerOptions& options) {
  if (options.has_trellis()) return scalar_only(options);
  if (Have(traits_of(options.method))) return {};
  return fmt::format("belongs to --method {} and does not go with --method {}", methods_that(Have),
                     to_string(options.method));
}

/// Refuses other transforms than that of the format.
std::string unless_transform_of_trellis(const LayerOptions& options) {
  if (options.transform == TransformKind::hadamard_128) return {};
  return scalar_only(options);
}

template <GridKind Grid>
std::string unless_grid(const LayerOptions& options) {
  if (options.has_trellis()) return scalar_only(options);
  if (options.grid() == Grid) return {};
  return fmt::format("belongs to --grid {} and does not go with {}", to_string(Grid),
                     options.grid_kind
                         ? "--grid " + to_string(*options.grid_kind)
                         : "--processing " + name_of(options.processing, processing_names));
}

// --- the table ---

template <auto Member, auto Parse>
LayerOption row(const char* name, const char* value_name, const char* standard, std::string help,
                OptionValue (*in_force)(const LayerOptions&),
                std::string (*misplaced)(const LayerOptions&) = nullptr) {
  return {name,
          value_name,
          standard,
          std::move(help),
          [](LayerOptions& options, const std::string& text) { options.*Member = Parse(text); },
          [](const LayerOptions& options) { return options.*Member != LayerOptions{}.*Member; },
          in_force,
          misplaced};
}

using Layer = LayerOptions;
OptionValue whole(auto number) { return static_cast<std::uint64_t>(number); }

const std::vector<LayerOption>& table() {
  static const std::vector<LayerOption> rows = {
      row<&Layer::bits, parse_bits>("bits", "N", "2",
                                    "bits per weight: 2, 3, 4 or 8; with a trellis 1 to 8",
                                    [](auto& o) { return whole(o.bits); }),
      row<&Layer::method, named<method_names>>(
          "method", "NAME", "ldlq", "one of " + methods_that([](auto&) { return true; }),
          [](auto& o) -> OptionValue { return to_string(o.method); }),
      row<&Layer::codebook, or_auto<parse_codebook_kind>>(
          "codebook", "NAME", "auto",
          "trellis (256 weights together, in the EXL3 format; 1 to 8 bits) or scalar (each weight "
          "a level of a grid); auto: trellis, but scalar with an option that belongs to it",
          [](auto& o) -> OptionValue { return name_of_codebook(o); }),
      row<&Layer::trellis, trellis::parse_codebook>(
          "trellis", "NAME", "mul1", "values of the trellis' states: mul1, mcg or 3inst",
          [](auto& o) -> OptionValue { return trellis::to_string(o.trellis); },
          unless_codebook<CodebookKind::trellis>),
      row<&Layer::trellis_feedback, named<trellis_feedback_names>>(
          "trellis-feedback", "NAME", "tile",
          "ldlq with a trellis: feed back after each tile of 16 inputs (tile), or inside it, too, "
          "after each step of the search (step: 1 to 4 bits; less loss, slower)",
          [](auto& o) -> OptionValue {
            return name_of(o.trellis_feedback, trellis_feedback_names);
          },
          unless_feedback_of_trellis),
      row<&Layer::processing, named<processing_names>>(
          "processing", "NAME", "incoherence",
          "incoherence (--rescale on --transform hadamard --grid incoherent) or baseline "
          "(--rescale off --transform none --grid minmax); each step may be set on its own",
          [](auto& o) -> OptionValue { return name_of(o.processing, processing_names); },
          scalar_only),
      row<&Layer::rescaling, or_auto<named<switch_names>>>(
          "rescale", "on|off", "auto", "scale each input channel by (H_jj / (W'W)_jj)^(1/4) first",
          [](auto& o) -> OptionValue { return o.rescale(); }, scalar_only),
      row<&Layer::output_scaling, or_auto<named<switch_names>>>(
          "output-scale", "on|off", "auto",
          "scale each output channel by the root of its norm, too, and choose the scales of inputs "
          "beside that from several candidates; auto: with --rescale on and a transform",
          [](auto& o) -> OptionValue { return o.scales_outputs(); }, scalar_only),
      row<&Layer::transform, or_auto<parse_transform>>(
          "transform", "NAME", "auto",
          "random orthogonal transform: kronecker, kronecker-blocked, kronecker-nopermute, "
          "hadamard, hadamard-128, dense (small layers) or none",
          [](auto& o) -> OptionValue { return to_string(o.effective_transform()); },
          unless_transform_of_trellis),
      row<&Layer::grid_kind, or_auto<parse_grid>>(
          "grid", "NAME", "auto", "levels: incoherent (one per layer) or minmax (per row or group)",
          [](auto& o) -> OptionValue { return to_string(o.grid()); }, scalar_only),
      row<&Layer::symmetric, named<switch_names>>(
          "symmetric", nullptr, "off", "min-max grid with zero in its middle",
          [](auto& o) -> OptionValue { return o.symmetric; }, unless_grid<GridKind::minmax>),
      row<&Layer::group_size, parse_group_size>(
          "group-size", "N", "row", "min-max grid: input channels that share a scale, 8 or more",
          [](auto& o) { return whole(o.group_size); }, unless_grid<GridKind::minmax>),
      row<&Layer::scale_type, or_auto<named<scale_type_names>>>(
          "scale-type", "NAME", "auto",
          "min-max grid: fp32, fp16 or bf16 (what both hold); scales are rounded to it before "
          "weights are, and stored in 16 bits but for fp32; auto: fp16 with groups, else fp32",
          [](auto& o) -> OptionValue { return name_of(o.scales(), scale_type_names); },
          unless_grid<GridKind::minmax>),
      row<&Layer::groups, or_auto<named<group_fit_names>>>(
          "groups", "NAME", "auto",
          "fit the grids of groups before rounding (static), or when optq reaches them (dynamic); "
          "auto: dynamic for optq without --act-order or --clamp pre, else static",
          [](auto& o) -> OptionValue { return to_string(o.effective_groups()); }, scalar_only),
      row<&Layer::rho, or_auto<parse_rho>>(
          "rho", "X", "auto", "half width of the grid over rms(W), or auto: searched per layer",
          [](auto& o) { return o.rho ? OptionValue(*o.rho) : OptionValue("auto"); },
          unless_grid<GridKind::incoherent>),
      row<&Layer::clamp, named<clamp_names>>(
          "clamp", "NAME", "feedback",
          "cut weights beyond the grid while rounding (feedback) or before (pre)",
          [](auto& o) -> OptionValue { return to_string(o.clamp); }, scalar_only),
      row<&Layer::order, or_auto<named<order_names>>>(
          "order", "NAME", "auto",
          "columns of ldlq: from the last (auto, backward), from the first (forward) or by "
          "descending diagonal of the Hessian (act)",
          [](auto& o) -> OptionValue {
            return name_of(o.order.value_or(ColumnOrder::backward), order_names);
          },
          unless_method<takes_order>),
      row<&Layer::act_order, named<switch_names>>(
          "act-order", nullptr, "off", "columns of optq by descending diagonal of the Hessian",
          [](auto& o) -> OptionValue { return o.act_order; }, unless_method<takes_act_order>),
      row<&Layer::rounding, named<rounding_names>>(
          "rounding", "NAME", "nearest", "nearest, or stochastic (unbiased)",
          [](auto& o) -> OptionValue { return name_of(o.rounding, rounding_names); }, scalar_only),
      row<&Layer::passes, or_auto<number<int>>>(
          "passes", "N", "auto",
          "greedy passes; auto: 5 for ldlq-rg and greedy, 0 after ldlq and ldl-admm",
          [](auto& o) { return whole(o.effective_passes()); }, unless_method<takes_passes>),
      row<&Layer::sharing, or_auto<named<switch_names>>>(
          "share-inputs", "on|off", "auto",
          "layers that read the same input have input scales, transform and factor in common: four "
          "factorisations a block instead of seven, at about 1 % more loss; auto: on with a "
          "trellis",
          [](auto& o) -> OptionValue { return o.shares_inputs(); }),
      row<&Layer::damping, parse_damping>(
          "damp", "X", "0.01", "damping added to the Hessian, relative to its mean diagonal",
          [](auto& o) -> OptionValue { return o.damping; }),
      row<&Layer::seed, number<std::uint64_t>>("seed", "S", "0", "seed of the random transforms",
                                               [](auto& o) -> OptionValue { return o.seed; }),
      row<&Layer::spectra, named<switch_names>>(
          "statistics", nullptr, "off",
          "also decompose every Hessian: ranks and mu_H in the report (slow: some 18 n^3 flops a "
          "layer)",
          nullptr),
  };
  return rows;
}

}  // namespace

std::string to_string(GroupFit fit) { return name_of(fit, group_fit_names); }
std::string to_string(Clamp clamp) { return name_of(clamp, clamp_names); }

std::string LayerOption::key() const {
  std::string key = name;
  std::replace(key.begin(), key.end(), '-', '_');
  return key;
}

std::span<const LayerOption> layer_options() { return table(); }

}  // namespace quip

// The rounding methods: one row has all that the rest of the program asks of a method.
#pragma once

#include <array>
#include <memory>

namespace quip {

class Rounder;
struct LayerOptions;

enum class Method { nearest, ldlq, optq, ldlq_rg, greedy, ldl_admm };

/// The triangular matrix with which a method hands the error of a column on to others.
enum class Feedback {
  none,
  factor,   ///< L of H = (L+I) D (L+I)ᵀ, which is made for every method: losses come from it
  inverse,  ///< the Cholesky factor of H⁻¹: the weights themselves change as columns are rounded
  constrained  ///< the optimum under a bound on its columns; its sweep does not add up the loss
};

/// The order in which a method takes the columns.
enum class Columns {
  stored,
  by_order,      ///< as --order says
  by_act_order,  ///< from the first, or with --act-order by descending diag(H)
  by_diagonal    ///< by descending diag(H)
};

/// The greedy passes, which read H itself, that a method consists of or may be followed by.
enum class Passes {
  never,
  on_request,  ///< none by default
  usual,       ///< some by default
  always       ///< at least one
};

struct MethodTraits {
  Method method;
  const char* name;  ///< as users write it
  Feedback feedback;
  Columns columns;
  Passes passes;
  bool streams;  ///< rounds, where it makes no passes, block by block from panels of L
  bool units;    ///< codes units of several weights together, as a trellis needs it
  std::unique_ptr<Rounder> (*make)(const LayerOptions& options);
};

// Each is defined in its method's file in src/quant/round.
[[nodiscard]] std::unique_ptr<Rounder> make_nearest(const LayerOptions& options);
[[nodiscard]] std::unique_ptr<Rounder> make_ldlq(const LayerOptions& options);
[[nodiscard]] std::unique_ptr<Rounder> make_optq(const LayerOptions& options);
[[nodiscard]] std::unique_ptr<Rounder> make_greedy(const LayerOptions& options);
[[nodiscard]] std::unique_ptr<Rounder> make_ldl_admm(const LayerOptions& options);

/// The methods, in the order of the enumeration.
inline constexpr auto methods = std::to_array<MethodTraits>({
    {Method::nearest, "nearest", Feedback::none, Columns::stored, Passes::never, true, true,
     make_nearest},
    {Method::ldlq, "ldlq", Feedback::factor, Columns::by_order, Passes::on_request, true, true,
     make_ldlq},
    {Method::optq, "optq", Feedback::inverse, Columns::by_act_order, Passes::never, false, false,
     make_optq},
    {Method::ldlq_rg, "ldlq-rg", Feedback::factor, Columns::by_diagonal, Passes::usual, false,
     false, make_ldlq},
    {Method::greedy, "greedy", Feedback::none, Columns::by_diagonal, Passes::always, false, false,
     make_greedy},
    {Method::ldl_admm, "ldl-admm", Feedback::constrained, Columns::by_diagonal, Passes::on_request,
     false, false, make_ldl_admm},
});

/// The method for weights of whose inputs nothing is known.
inline constexpr Method method_without_hessian = Method::nearest;

[[nodiscard]] constexpr const MethodTraits& traits_of(Method method) {
  return methods[static_cast<std::size_t>(method)];
}

static_assert([] {
  for (std::size_t i = 0; i < methods.size(); ++i) {
    if (methods[i].method != static_cast<Method>(i)) return false;
  }
  return true;
}());

}  // namespace quip

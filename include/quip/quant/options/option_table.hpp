// The options of a layer. A row feeds the command line and its help, configuration files,
// --override, the manifest and the settings printed at the start.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <variant>

#include "quip/quant/options/options.hpp"

namespace quip {

/// A value, in the manifest's types.
using OptionValue = std::variant<bool, std::uint64_t, double, std::string>;

struct LayerOption {
  const char* name;
  const char* value_name;  ///< null: a switch
  const char* standard;    ///< the default, as it is shown and may be typed
  std::string help;
  /// Sets the option. Throws Error saying what `text` must be.
  void (*parse)(LayerOptions& options, const std::string& text);
  /// True if it is not at its default.
  bool (*given)(const LayerOptions& options);
  /// Returns the value in force. Null: it changes no result, and the manifest does not have it.
  OptionValue (*in_force)(const LayerOptions& options);
  /// Returns in words the choice that it belongs to and the one that it clashes with; empty: it has
  /// a meaning. May be null.
  std::string (*misplaced)(const LayerOptions& options);

  /// Returns its name in the manifest.
  [[nodiscard]] std::string key() const;
};

[[nodiscard]] std::span<const LayerOption> layer_options();

}  // namespace quip

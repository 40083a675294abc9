// Checks of the parts of a packed model against the manifest. Each returns one line for each thing
// that is wrong.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "manifest.hpp"

namespace quip {

/// Checks a block; `report`, unless null, receives the entries of the layers for reports.
[[nodiscard]] std::vector<std::string> check_block(const std::filesystem::path& directory,
                                                   const BlockEntry& block,
                                                   nlohmann::json* report = nullptr);
[[nodiscard]] std::vector<std::string> check_state(const std::filesystem::path& directory,
                                                   const StateEntry& state);
[[nodiscard]] std::vector<std::string> check_rest(const std::filesystem::path& directory,
                                                  const Manifest& manifest);
/// Checks report.json, and model.h5, whose external links have to lead to `targets`.
[[nodiscard]] std::vector<std::string> check_summaries(
    const std::filesystem::path& directory, const Manifest& manifest,
    const std::vector<std::string>& targets = {});

}  // namespace quip

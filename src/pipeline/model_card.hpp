// The README.md of an export.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "export_format.hpp"

namespace quip {

inline constexpr const char* card_file = "README.md";
/// That of the original checkpoint has this name in an export.
inline constexpr const char* original_card_file = "README-original.md";

/// Returns a model card: what the export was made of and how, its bits and losses, and how to load
/// it. `side_files` are those of the original checkpoint in `model_dir`.
[[nodiscard]] std::string model_card(const PackedModel& model,
                                     const std::filesystem::path& model_dir,
                                     const ExportFormat& format,
                                     const std::vector<ExportTensor>& tensors,
                                     const std::vector<std::filesystem::path>& side_files);

}  // namespace quip

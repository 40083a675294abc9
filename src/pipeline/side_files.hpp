// The files beside a checkpoint's weights.
#pragma once

#include <filesystem>
#include <vector>

namespace quip {

/// Returns the files below `model`, relative to it and sorted, that an export passes on as they
/// are: all but weights and their indexes, config.json, caches, version control, and files in the
/// directories `others`. Links are followed. Throws Error naming a file that cannot be read,
/// such as a link whose target is missing.
[[nodiscard]] std::vector<std::filesystem::path> list_side_files(
    const std::filesystem::path& model, const std::vector<std::filesystem::path>& others);

}  // namespace quip

// What failed and forgotten downloads leave behind, told with its cause.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace quip {

/// Says why there is no file `path`: "is missing", or that it is a link to one that is.
[[nodiscard]] std::string why_absent(const std::filesystem::path& path);

/// Says what a directory without a checkpoint holds in its place, and what to do.
[[nodiscard]] std::string what_is_there(const std::filesystem::path& directory);

/// Throws Error if `text`, the beginning of file `origin`, is a git-lfs pointer or an HTML page.
void refuse_placeholder(std::string_view text, const std::string& origin);

}  // namespace quip

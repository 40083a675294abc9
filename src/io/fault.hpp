// Faults for tests: a file operation fails, or the process dies before it.
#pragma once

#include <filesystem>
#include <string_view>

namespace quip {

/// Returns 0, or the errno with which the operation is to fail. Called before every operation that
/// changes the file system. Always 0 unless the environment asks for a fault in this process:
///   QUIP_FAULT=kill:N     SIGKILL before its N-th operation, counted from 1
///   QUIP_FAULT=ENOSPC:N   that operation and all later ones fail as on a full disk
///   QUIP_FAULT=EROFS:N    likewise, as on a file system that has become read-only
///   QUIP_FAULT=trace:FILE every operation appends a line to FILE
[[nodiscard]] int injected_fault(std::string_view operation, const std::filesystem::path& path);

}  // namespace quip

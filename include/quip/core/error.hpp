// The one exception type of the project, and the one way to raise it.
#pragma once

#include <stdexcept>
#include <string>

#include <fmt/format.h>

namespace quip {

/// A failure that a user can read: one line naming the file, tensor or option
/// and what to do about it. Thrown by every layer, caught once in `main`.
class Error : public std::runtime_error {
 public:
  explicit Error(const std::string& message) : std::runtime_error(message) {}
};

/// A failure that every rank already knows about (see `agree` in comm/): rank 0
/// reports it and the program ends in good order, without an MPI abort.
class AgreedError : public Error {
 public:
  using Error::Error;
};

/// Throws `Error` with a formatted message.
template <typename... Args>
[[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace quip

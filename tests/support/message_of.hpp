// The error that something ends with.
#pragma once

#include <string>

#include "quip/core/error.hpp"

namespace quip::test {

/// Returns the message of the Error that `work` throws.
template <typename Work>
std::string message_of(const Work& work) {
  try {
    work();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

}  // namespace quip::test

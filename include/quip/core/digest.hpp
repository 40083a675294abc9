// Content digests: XXH3 with 128 bits, as 32 hexadecimal digits.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace quip {

/// Incremental digest of a sequence of bytes.
class Digest {
 public:
  Digest();
  void update(std::span<const std::byte> bytes);
  void update(std::string_view text);
  /// Returns the digest of all bytes so far, as 32 lower-case hexadecimal digits.
  [[nodiscard]] std::string hex() const;

 private:
  struct Free {
    void operator()(void* state) const noexcept;
  };
  std::unique_ptr<void, Free> state_;
};

/// Returns the digest of one contiguous range.
[[nodiscard]] std::string digest_of(std::span<const std::byte> bytes);

}  // namespace quip

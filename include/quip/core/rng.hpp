// Counter-based random numbers (Philox 4×32-10): a value depends on the key and
// on its global index alone, never on who asks or in which order.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "quip/core/matrix.hpp"

namespace quip {

/// The sequence of one key. `std::*_distribution` is never used: it differs between standard
/// libraries.
class RandomStream {
 public:
  explicit RandomStream(std::uint64_t key) : key_(key) {}

  /// Returns 64 random bits at position `index`.
  [[nodiscard]] std::uint64_t bits(std::uint64_t index) const;
  /// Returns a uniform number in [0, 1) with 53 bits.
  [[nodiscard]] double uniform(std::uint64_t index) const;
  /// Returns a standard normal number (Box–Muller).
  [[nodiscard]] double normal(std::uint64_t index) const;
  /// Returns a uniformly random permutation of 0 … n-1 (Fisher–Yates).
  [[nodiscard]] std::vector<index_t> permutation(index_t n) const;

 private:
  std::uint64_t key_;
};

/// Returns the key for one purpose of one layer, a hash of (seed, layer, purpose).
[[nodiscard]] std::uint64_t derive_key(std::uint64_t seed, std::string_view layer,
                                       std::string_view purpose);

}  // namespace quip

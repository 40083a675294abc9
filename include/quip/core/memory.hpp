// How much memory the matrices of this process take, and how much there is.
#pragma once

#include <cstdint>

namespace quip {

/// Counts the bytes of every Buffer, hence of every Matrix and of the CPU backend's tensors. Two
/// relaxed atomic additions a Buffer; threads may allocate side by side.
class HeldMemory {
 public:
  static void add(std::int64_t bytes) noexcept;
  static void drop(std::int64_t bytes) noexcept;

  /// Bytes held now.
  [[nodiscard]] static std::int64_t now() noexcept;
  /// The most that was held at a time since the start, or the last `restart_peak`.
  [[nodiscard]] static std::int64_t peak() noexcept;
  /// The peak becomes what is held now.
  static void restart_peak() noexcept;
};

/// Bytes of memory that this machine has, without swap.
[[nodiscard]] double installed_memory() noexcept;

}  // namespace quip

// Memory that the matrices of this process take, and memory that the machine has.
#pragma once

#include <cstdint>

namespace quip {

/// Counts the bytes of every Buffer, hence of every Matrix and of the CPU backend's tensors. Costs
/// two relaxed atomic additions a Buffer; threads may allocate side by side.
class HeldMemory {
 public:
  static void add(std::int64_t bytes) noexcept;
  static void drop(std::int64_t bytes) noexcept;

  /// Returns the bytes held now.
  [[nodiscard]] static std::int64_t now() noexcept;
  /// Returns the most bytes held at a time since the start, or the last `restart_peak`.
  [[nodiscard]] static std::int64_t peak() noexcept;
  /// Sets the peak to the bytes held now.
  static void restart_peak() noexcept;
};

/// Returns the bytes of memory that this machine has, swap not counted.
[[nodiscard]] double installed_memory() noexcept;

}  // namespace quip

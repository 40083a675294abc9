#include "quip/core/rng.hpp"

#include <cmath>
#include <numbers>
#include <numeric>
#include <string>
#include <utility>

#include <Random123/philox.h>
#include <xxhash.h>

namespace quip {

std::uint64_t RandomStream::bits(std::uint64_t index) const {
  using Generator = r123::Philox4x32;
  const Generator::ctr_type counter{
      {static_cast<std::uint32_t>(index), static_cast<std::uint32_t>(index >> 32), 0U, 0U}};
  const Generator::key_type key{
      {static_cast<std::uint32_t>(key_), static_cast<std::uint32_t>(key_ >> 32)}};
  const auto block = Generator{}(counter, key);
  return (static_cast<std::uint64_t>(block[1]) << 32) | block[0];
}

double RandomStream::uniform(std::uint64_t index) const {
  return static_cast<double>(bits(index) >> 11) * 0x1.0p-53;
}

double RandomStream::normal(std::uint64_t index) const {
  // Two counters a value keep values addressable by index. 1-u keeps the logarithm finite.
  const double radius = std::sqrt(-2.0 * std::log(1.0 - uniform(2 * index)));
  return radius * std::cos(2.0 * std::numbers::pi * uniform(2 * index + 1));
}

std::vector<index_t> RandomStream::permutation(index_t n) const {
  std::vector<index_t> order(at(n));
  std::iota(order.begin(), order.end(), index_t{0});
  for (index_t i = n - 1; i > 0; --i) {
    // The bias of the modulus is below 2⁻⁴⁰ for any layer width.
    const auto position = static_cast<std::uint64_t>(i);
    const std::uint64_t j = bits(position) % (position + 1);
    std::swap(order[position], order[j]);
  }
  return order;
}

std::uint64_t derive_key(std::uint64_t seed, std::string_view layer, std::string_view purpose) {
  std::string text(layer);
  text.push_back('\0');
  text.append(purpose);
  return XXH3_64bits_withSeed(text.data(), text.size(), seed);
}

}  // namespace quip

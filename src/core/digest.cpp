#include "quip/core/digest.hpp"

#include <new>

#include <fmt/format.h>
#include <xxhash.h>

namespace quip {
namespace {

XXH3_state_t* state_of(void* state) { return static_cast<XXH3_state_t*>(state); }

/// Writes the high half first, the canonical form that xxhsum prints too.
std::string to_hex(XXH128_hash_t hash) {
  return fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
}

}  // namespace

void Digest::Free::operator()(void* state) const noexcept { XXH3_freeState(state_of(state)); }

Digest::Digest() : state_(XXH3_createState()) {
  if (!state_) throw std::bad_alloc();
  XXH3_128bits_reset(state_of(state_.get()));
}

void Digest::update(std::span<const std::byte> bytes) {
  if (bytes.empty()) return;
  XXH3_128bits_update(state_of(state_.get()), bytes.data(), bytes.size());
}

void Digest::update(std::string_view text) { update(std::as_bytes(std::span(text))); }

std::string Digest::hex() const { return to_hex(XXH3_128bits_digest(state_of(state_.get()))); }

std::string digest_of(std::span<const std::byte> bytes) {
  return to_hex(XXH3_128bits(bytes.data(), bytes.size()));
}

}  // namespace quip

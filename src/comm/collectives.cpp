#include "quip/comm/collectives.hpp"

#include <exception>
#include <limits>
#include <new>
#include <numeric>

#include "quip/core/error.hpp"

namespace quip {

void Collectives::broadcast(std::string& text, int root) {
  auto length = static_cast<std::uint64_t>(text.size());
  broadcast(std::span(&length, 1), root);
  text.resize(length);
  broadcast(std::span(text.data(), text.size()), root);
}

std::vector<std::string> Collectives::gather(const std::string& text) {
  const auto ranks = static_cast<std::size_t>(size());
  const auto self = static_cast<std::size_t>(rank());
  std::vector<index_t> lengths(ranks, 0);
  lengths[self] = static_cast<index_t>(text.size());
  all_gather_bytes(std::as_writable_bytes(std::span(lengths)),
                   share_offsets(size(), size(), sizeof(index_t)));
  std::vector<index_t> offsets(ranks + 1, 0);
  std::partial_sum(lengths.begin(), lengths.end(), offsets.begin() + 1);
  std::string all(static_cast<std::size_t>(offsets.back()), '\0');
  all.replace(static_cast<std::size_t>(offsets[self]), text.size(), text);
  all_gather_bytes(std::as_writable_bytes(std::span(all)), offsets);
  std::vector<std::string> texts;
  for (std::size_t r = 0; r < ranks; ++r) {
    texts.push_back(
        all.substr(static_cast<std::size_t>(offsets[r]), static_cast<std::size_t>(lengths[r])));
  }
  return texts;
}

std::string message_of(const std::exception& error) {
  if (dynamic_cast<const std::bad_alloc*>(&error) == nullptr) return error.what();
  return "out of memory; use more nodes, fewer ranks per node or fewer --samples";
}

void agree(Collectives& comm, const std::function<void()>& work) {
  std::string message;
  bool failed = false;
  try {
    work();
  } catch (const AgreedError&) {  // `work` agreed by itself: all ranks have this
    throw;
  } catch (const std::exception& error) {
    failed = true;
    message = message_of(error);
  }
  // The lowest failing rank speaks: the maximum of size - rank over those that failed.
  float vote = failed ? static_cast<float>(comm.size() - comm.rank()) : 0.0F;
  comm.all_reduce_max(std::span(&vote, 1));
  if (vote == 0.0F) return;
  const int speaker = comm.size() - static_cast<int>(vote);
  comm.broadcast(message, speaker);
  throw AgreedError(message);
}

}  // namespace quip

#include "quip/comm/collectives.hpp"

#include <exception>
#include <new>
#include <numeric>

#include "quip/core/error.hpp"

namespace quip {

std::vector<std::string> Collectives::gather(const std::string& text) {
  std::vector<index_t> lengths(at(size()), 0);
  lengths[at(rank())] = std::ssize(text);
  all_gather_bytes(std::as_writable_bytes(std::span(lengths)),
                   share_offsets(size(), size(), sizeof(index_t)));
  std::vector<index_t> offsets(lengths.size() + 1, 0);
  std::partial_sum(lengths.begin(), lengths.end(), offsets.begin() + 1);
  std::string all(at(offsets.back()), '\0');
  all.replace(at(offsets[at(rank())]), text.size(), text);
  all_gather_bytes(std::as_writable_bytes(std::span(all)), offsets);
  std::vector<std::string> texts;
  for (std::size_t r = 0; r < lengths.size(); ++r) {
    texts.push_back(all.substr(at(offsets[r]), at(lengths[r])));
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

#include "quip/comm/mpi_collectives.hpp"

#include <algorithm>
#include <limits>

#include "quip/comm/schedule.hpp"
#include "quip/core/activity.hpp"
#include "quip/core/error.hpp"
#include "quip/core/usage.hpp"

namespace quip {
namespace {

/// Calls `operation(first, count)` for consecutive pieces of `total` elements.
template <typename Operation>
void in_pieces(index_t total, index_t step, const Operation& operation) {
  for (index_t first = 0; first < total; first += step) {
    operation(first, static_cast<int>(std::min(step, total - first)));
  }
}

}  // namespace

MpiCollectives::Shares::Shares(std::span<const index_t> boundaries) {
  for (std::size_t r = 1; r < boundaries.size(); ++r) {
    add(boundaries[r] - boundaries[r - 1], boundaries[r - 1]);
  }
}

void MpiCollectives::Shares::add(index_t count, index_t offset) {
  counts.push_back(static_cast<int>(count));
  offsets.push_back(static_cast<int>(offset));
}

MpiCollectives::MpiCollectives(MPI_Comm parent, int ranks_per_node)
    : comm_(Communicator::duplicate(parent)), rank_(comm_.rank()), size_(comm_.size()) {
  find_nodes(ranks_per_node);
  if (size_ > 1) watch_ = std::make_unique<StallWatch>(comm_.get());
  try_sharing();
}

void MpiCollectives::set_stall_timeout(double seconds) {
  if (watch_) watch_->set_timeout(seconds);
}

double MpiCollectives::stall_timeout() const noexcept { return watch_ ? watch_->timeout() : 0; }

bool MpiCollectives::speaks_for_failure() { return !watch_ || watch_->speaks_for_failure(); }

void MpiCollectives::complete(const char* collective, const Start& start) {
  MPI_Request request = MPI_REQUEST_NULL;
  const int code = start(&request);
  if (code != MPI_SUCCESS) {
    fail("{} failed in {}: {}", collective, Activity::current().describe(), mpi_text(code));
  }
  watch_->wait(request, collective);
}

void MpiCollectives::barrier() {
  if (size_ == 1) return;
  const UsageMeter::Communication time;
  complete("barrier", [&](MPI_Request* request) { return MPI_Ibarrier(comm_.get(), request); });
}

void MpiCollectives::all_reduce_sum(std::span<double> values) {
  if (size_ == 1) return;
  const UsageMeter::Communication time;
  if (!sums_by_shares(static_cast<index_t>(values.size_bytes()))) {
    complete("all-reduce", [&](MPI_Request* request) {
      return MPI_Iallreduce(MPI_IN_PLACE, values.data(), static_cast<int>(values.size()),
                            MPI_DOUBLE, MPI_SUM, comm_.get(), request);
    });
  } else {
    const auto total = static_cast<index_t>(values.size());
    const index_t step =
        std::min(total, shared_piece_bytes(size_) / static_cast<index_t>(sizeof(double)));
    // The parts that all ranks bring to this rank's share, which is the largest on rank 0.
    const Buffer<double> parts(share_of(step, 0, size_).count() * size_);
    in_pieces(total, step, [&](index_t first, int count) {
      const Shares shares(share_offsets(count, size_));
      sum_share("all-reduce", values.data() + first, shares, parts.data());
      gather_shares("all-reduce", MPI_DOUBLE, values.data() + first, shares);
    });
  }
  UsageMeter::current().add_sent(sent_by_sum(static_cast<index_t>(values.size()), rank_, size_));
}

/// Receives the parts of all ranks for the own share into `parts` and adds them in rank order.
void MpiCollectives::sum_share(const char* collective, double* values, const Shares& shares,
                               double* parts) {
  const index_t mine = shares.counts[at(rank_)];
  Shares received;
  for (int r = 0; r < size_; ++r) received.add(mine, r * mine);
  complete(collective, [&](MPI_Request* request) {
    return MPI_Ialltoallv(values, shares.counts.data(), shares.offsets.data(), MPI_DOUBLE, parts,
                          received.counts.data(), received.offsets.data(), MPI_DOUBLE, comm_.get(),
                          request);
  });
  double* sum = values + shares.offsets[at(rank_)];
  std::copy_n(parts, mine, sum);
  for (int r = 1; r < size_; ++r) {
    for (index_t i = 0; i < mine; ++i) sum[i] += parts[r * mine + i];
  }
}

/// Goes piece by piece through every rank's range, so that a rank receives little at a time.
void MpiCollectives::reduce_scatter_sum(std::span<double> values,
                                        std::span<const index_t> offsets) {
  if (size_ == 1) return;
  const UsageMeter::Communication time;
  const auto first = [&](int r) { return offsets[at(r)]; };
  const auto count = [&](int r) { return first(r + 1) - first(r); };
  if (first(size_) > std::numeric_limits<int>::max()) {
    fail("reduce-scatter of {} elements: at most 2^31 - 1 at a time", first(size_));
  }
  index_t longest = 0;
  for (int r = 0; r < size_; ++r) longest = std::max(longest, count(r));
  const index_t step = shared_piece_bytes(size_) / (index_t{size_} * index_t{sizeof(double)});
  const Buffer<double> parts(std::min(step, count(rank_)) * size_);
  in_pieces(longest, step, [&](index_t begin, int /*length*/) {
    Shares shares;
    for (int r = 0; r < size_; ++r) {
      const index_t from = std::min(begin, count(r));
      shares.add(std::min(step, count(r) - from), first(r) + from);
    }
    sum_share("reduce-scatter", values.data(), shares, parts.data());
  });
  UsageMeter::current().add_sent((first(size_) - count(rank_)) * index_t{sizeof(double)});
}

void MpiCollectives::all_reduce_max(std::span<float> values) {
  if (size_ == 1) return;
  const UsageMeter::Communication time;
  in_pieces(static_cast<index_t>(values.size()), piece_bytes / index_t{sizeof(float)},
            [&](index_t first, int count) {
              complete("all-reduce", [&](MPI_Request* request) {
                return MPI_Iallreduce(MPI_IN_PLACE, values.data() + first, count, MPI_FLOAT,
                                      MPI_MAX, comm_.get(), request);
              });
            });
  UsageMeter::current().add_sent(sent_by_maximum(static_cast<index_t>(values.size_bytes()), size_));
}

void MpiCollectives::broadcast_bytes(std::span<std::byte> bytes, int root) {
  if (size_ == 1) return;
  const UsageMeter::Communication time;
  broadcast_pieces(bytes, root);
  UsageMeter::current().add_sent(
      sent_by_broadcast(static_cast<index_t>(bytes.size()), root, rank_, size_));
}

void MpiCollectives::broadcast_pieces(std::span<std::byte> bytes, int root) {
  const auto total = static_cast<index_t>(bytes.size());
  if (broadcasts_by_shares(total, size_)) {
    in_pieces(total, broadcast_piece_bytes(size_), [&](index_t first, int count) {
      broadcast_by_shares(bytes.data() + first, count, root);
    });
    return;
  }
  in_pieces(total, piece_bytes, [&](index_t first, int count) {
    complete("broadcast", [&](MPI_Request* request) {
      return MPI_Ibcast(bytes.data() + first, count, MPI_BYTE, root, comm_.get(), request);
    });
  });
}

/// Deals out shares from the root, then gathers them: twice the payload for any number of ranks.
void MpiCollectives::broadcast_by_shares(std::byte* data, int count, int root) {
  const Shares shares(share_offsets(count, size_));
  complete("broadcast", [&](MPI_Request* request) {
    if (rank_ == root) {
      return MPI_Iscatterv(data, shares.counts.data(), shares.offsets.data(), MPI_BYTE,
                           MPI_IN_PLACE, 0, MPI_BYTE, root, comm_.get(), request);
    }
    return MPI_Iscatterv(nullptr, nullptr, nullptr, MPI_BYTE, data + shares.offsets[at(rank_)],
                         shares.counts[at(rank_)], MPI_BYTE, root, comm_.get(), request);
  });
  gather_shares("broadcast", MPI_BYTE, data, shares);
}

void MpiCollectives::gather_shares(const char* collective, MPI_Datatype type, void* data,
                                   const Shares& shares) {
  complete(collective, [&](MPI_Request* request) {
    return MPI_Iallgatherv(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, data, shares.counts.data(),
                           shares.offsets.data(), type, comm_.get(), request);
  });
}

void MpiCollectives::all_gather_bytes(std::span<std::byte> buffer,
                                      std::span<const index_t> offsets) {
  if (size_ == 1) return;
  const UsageMeter::Communication time;
  if (offsets[at(size_)] <= piece_bytes) {
    gather_shares("all-gather", MPI_BYTE, buffer.data(), Shares(offsets));
  } else {  // counts and displacements are int
    for (int r = 0; r < size_; ++r) {
      const index_t first = offsets[at(r)];
      broadcast_pieces(buffer.subspan(at(first), at(offsets[at(r + 1)] - first)), r);
    }
  }
  UsageMeter::current().add_sent(sent_by_gather(offsets, rank_, size_));
}

void MpiCollectives::all_to_all_bytes(std::span<const std::byte> sent,
                                      std::span<const index_t> send_offsets,
                                      std::span<std::byte> received,
                                      std::span<const index_t> receive_offsets) {
  if (size_ == 1) {
    std::copy(sent.begin(), sent.end(), received.begin());
    return;
  }
  const UsageMeter::Communication time;
  const auto piece_of = [](std::span<const index_t> offsets, int r, index_t begin, index_t step) {
    const index_t count = offsets[at(r + 1)] - offsets[at(r)];
    const index_t from = std::min(begin, count);
    return Range{offsets[at(r)] + from, offsets[at(r)] + std::min(begin + step, count)};
  };
  // As many pieces on every rank as the longest message between any two asks for.
  index_t longest = 0;
  for (int r = 0; r < size_; ++r) {
    longest = std::max(longest, send_offsets[at(r + 1)] - send_offsets[at(r)]);
  }
  complete("all-to-all", [&](MPI_Request* request) {
    return MPI_Iallreduce(MPI_IN_PLACE, &longest, 1, MPI_INT64_T, MPI_MAX, comm_.get(), request);
  });
  // Messages are packed anew for each piece, so that displacements stay small.
  const index_t step = shared_piece_bytes(size_) / size_;
  std::vector<std::byte> outgoing;
  std::vector<std::byte> incoming;
  in_pieces(longest, step, [&](index_t begin, int /*length*/) {
    Shares out;
    Shares in;
    outgoing.clear();
    index_t arriving = 0;
    for (int r = 0; r < size_; ++r) {
      const Range mine = piece_of(send_offsets, r, begin, step);
      out.add(mine.count(), std::ssize(outgoing));
      outgoing.insert(outgoing.end(), sent.begin() + mine.first, sent.begin() + mine.last);
      const index_t theirs = piece_of(receive_offsets, r, begin, step).count();
      in.add(theirs, arriving);
      arriving += theirs;
    }
    incoming.resize(at(arriving));
    complete("all-to-all", [&](MPI_Request* request) {
      return MPI_Ialltoallv(outgoing.data(), out.counts.data(), out.offsets.data(), MPI_BYTE,
                            incoming.data(), in.counts.data(), in.offsets.data(), MPI_BYTE,
                            comm_.get(), request);
    });
    for (int r = 0; r < size_; ++r) {
      std::copy_n(incoming.begin() + in.offsets[at(r)], in.counts[at(r)],
                  received.begin() + piece_of(receive_offsets, r, begin, step).first);
    }
  });
  UsageMeter::current().add_sent(send_offsets[at(size_)] - send_offsets[at(rank_ + 1)] +
                                 send_offsets[at(rank_)]);
}

MPI_Comm communicator_of(const Collectives& comm) {
  const auto* over_mpi = dynamic_cast<const MpiCollectives*>(&comm.host());
  return over_mpi != nullptr ? over_mpi->get() : MPI_COMM_SELF;
}

}  // namespace quip

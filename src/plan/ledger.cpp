#include "quip/plan/ledger.hpp"

#include "quip/comm/schedule.hpp"
#include "quip/core/error.hpp"

namespace quip::plan {

const char* to_string(Exchange kind) {
  switch (kind) {
    case Exchange::reduce:
      return "reduce";
    case Exchange::broadcast:
      return "broadcast";
    case Exchange::gather:
      return "gather";
  }
  fail("unknown exchange {}", static_cast<int>(kind));
}

PhaseCost& PhaseCost::operator+=(const PhaseCost& other) {
  usage += other.usage;
  for (const Exchange kind : all_exchanges) {
    of(kind).calls += other.of(kind).calls;
    of(kind).payload += other.of(kind).payload;
  }
  bound += other.bound;
  durable += other.durable;
  written_alone += other.written_alone;
  written_together += other.written_together;
  return *this;
}

void Ledger::add(Exchange kind, index_t sent, double payload, double bound) {
  current_->usage.bytes_sent += sent;
  Exchanges& all = current_->of(kind);
  ++all.calls;
  all.payload += payload;
  current_->bound += bound;
}

void Ledger::add_file(index_t bytes, int writer) {
  if (rank_ == writer) current_->usage.bytes_written += bytes;
  current_->written_alone += bytes;
  ++current_->durable;
}

void Ledger::barrier() {
  if (size_ > 1) add(Exchange::reduce, 0, 0, 0);
}

void Ledger::count_sum(index_t count) {
  if (size_ == 1) return;
  const auto payload = static_cast<double>(count) * sizeof(double);
  // Reduce-scatter and all-gather: no algorithm moves less.
  add(Exchange::reduce, sent_by_sum(count, rank_, size_), payload,
      2 * payload * (size_ - 1) / size_);
}

void Ledger::count_maximum(index_t bytes) {
  if (size_ == 1) return;
  const auto payload = static_cast<double>(bytes);
  add(Exchange::reduce, sent_by_maximum(bytes, size_), payload, 2 * payload * (size_ - 1) / size_);
}

void Ledger::count_broadcast(index_t bytes, int root) {
  if (size_ == 1) return;
  const auto payload = static_cast<double>(bytes);
  // All but one receive it; shared out evenly that is so much a rank.
  add(Exchange::broadcast, sent_by_broadcast(bytes, root, rank_, size_), payload,
      payload * (size_ - 1) / size_);
}

void Ledger::count_text(index_t bytes, int root) {
  count_broadcast(sizeof(std::uint64_t), root);
  count_broadcast(bytes, root);
}

void Ledger::all_reduce_sum(std::span<double> values) {
  count_sum(static_cast<index_t>(values.size()));
}

void Ledger::reduce_scatter_sum(std::span<double> /*values*/, std::span<const index_t> offsets) {
  if (size_ == 1) return;
  constexpr auto element = static_cast<index_t>(sizeof(double));
  const auto self = static_cast<std::size_t>(rank_);
  const index_t total = offsets.back();
  const auto payload = static_cast<double>(total * element);
  // Half of what a sum on all ranks takes.
  add(Exchange::reduce, (total - offsets[self + 1] + offsets[self]) * element, payload / 2,
      payload * (size_ - 1) / size_);
}

void Ledger::all_reduce_max(std::span<float> values) {
  count_maximum(static_cast<index_t>(values.size_bytes()));
}

void Ledger::broadcast_bytes(std::span<std::byte> bytes, int root) {
  count_broadcast(static_cast<index_t>(bytes.size()), root);
}

void Ledger::all_gather_bytes(std::span<std::byte> /*buffer*/, std::span<const index_t> offsets) {
  if (size_ == 1) return;
  const auto payload = static_cast<double>(offsets.back());
  add(Exchange::gather, sent_by_gather(offsets, rank_, size_), payload,
      payload * (size_ - 1) / size_);
}

void Ledger::node_barrier() {
  if (place_.size > 1) add(Exchange::reduce, 0, 0, 0);
}

void Ledger::node_broadcast(std::span<std::byte> bytes) {
  if (place_.size == 1) return;
  const auto payload = static_cast<double>(bytes.size());
  const auto sent = static_cast<index_t>(bytes.size()) * (place_.size - 1);
  add(Exchange::broadcast, place_.rank == 0 ? sent : 0, payload,
      payload * (place_.size - 1) / place_.size);
}

void Ledger::all_gather_over_nodes(std::span<std::byte> /*buffer*/,
                                   std::span<const index_t> offsets) {
  if (place_.nodes == 1) return;
  const auto payload = static_cast<double>(offsets.back());
  const auto node = static_cast<std::size_t>(place_.node);
  const bool leads = place_.rank == 0;
  const index_t share = offsets[node + 1] - offsets[node];
  add(Exchange::gather, leads ? share * (place_.nodes - 1) : 0, payload,
      payload * (place_.nodes - 1) / size_);
}

}  // namespace quip::plan

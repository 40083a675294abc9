#include "quip/plan/ledger.hpp"

#include "quip/comm/schedule.hpp"

namespace quip::plan {

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

void Ledger::add(const Ledger& other) {
  for (const auto& [phase, cost] : other.phases_) phases_[phase] += cost;
}

void Ledger::exchange(Exchange kind, index_t sent, double payload, double others) {
  current_->usage.bytes_sent += sent;
  Exchanges& all = current_->of(kind);
  ++all.calls;
  all.payload += payload;
  // A sum is a reduce-scatter and an all-gather: no algorithm moves less.
  current_->bound += (kind == Exchange::reduce ? 2 : 1) * payload * others;
}

void Ledger::exchange(Exchange kind, index_t sent, double payload) {
  if (size_ > 1) exchange(kind, sent, payload, (size_ - 1.0) / size_);
}

void Ledger::add_file(index_t bytes, int writer) {
  if (rank_ == writer) current_->usage.bytes_written += bytes;
  current_->written_alone += bytes;
  ++current_->durable;
}

void Ledger::count_sum(index_t count) {
  exchange(Exchange::reduce, sent_by_sum(count, rank_, size_),
           static_cast<double>(count) * sizeof(double));
}

void Ledger::count_maximum(index_t bytes) {
  exchange(Exchange::reduce, sent_by_maximum(bytes, size_), static_cast<double>(bytes));
}

void Ledger::count_broadcast(index_t bytes, int root) {
  exchange(Exchange::broadcast, sent_by_broadcast(bytes, root, rank_, size_),
           static_cast<double>(bytes));
}

void Ledger::count_text(index_t bytes, int root) {
  count_broadcast(sizeof(std::uint64_t), root);
  count_broadcast(bytes, root);
}

void Ledger::reduce_scatter_sum(std::span<double> /*values*/, std::span<const index_t> offsets) {
  constexpr auto element = static_cast<index_t>(sizeof(double));
  const index_t others = offsets.back() - offsets[at(rank_ + 1)] + offsets[at(rank_)];
  // Half of what a sum on all ranks takes.
  exchange(Exchange::reduce, others * element, static_cast<double>(offsets.back() * element) / 2);
}

void Ledger::all_gather_bytes(std::span<std::byte> /*buffer*/, std::span<const index_t> offsets) {
  exchange(Exchange::gather, sent_by_gather(offsets, rank_, size_),
           static_cast<double>(offsets.back()));
}

void Ledger::all_to_all_bytes(std::span<const std::byte> /*sent*/,
                              std::span<const index_t> send_offsets,
                              std::span<std::byte> /*received*/,
                              std::span<const index_t> /*receive_offsets*/) {
  const index_t own = send_offsets[at(rank_ + 1)] - send_offsets[at(rank_)];
  exchange(Exchange::gather, send_offsets.back() - own, static_cast<double>(send_offsets.back()));
}

void Ledger::node_broadcast(std::span<std::byte> bytes) {
  if (place_.size == 1) return;
  const auto sent = static_cast<index_t>(bytes.size()) * (place_.size - 1);
  exchange(Exchange::broadcast, place_.rank == 0 ? sent : 0, static_cast<double>(bytes.size()),
           (place_.size - 1.0) / place_.size);
}

void Ledger::all_gather_over_nodes(std::span<std::byte> /*buffer*/,
                                   std::span<const index_t> offsets) {
  if (place_.nodes == 1) return;
  const index_t share = offsets[at(place_.node + 1)] - offsets[at(place_.node)];
  exchange(Exchange::gather, place_.rank == 0 ? share * (place_.nodes - 1) : 0,
           static_cast<double>(offsets.back()), (place_.nodes - 1.0) / size_);
}

}  // namespace quip::plan

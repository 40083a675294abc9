// The books of one rank of a planned job: what it sends, reads, writes and computes in each phase.
#pragma once

#include <array>
#include <map>
#include <string>

#include "quip/comm/collectives.hpp"
#include "quip/core/usage.hpp"

namespace quip::plan {

enum class Exchange { reduce, broadcast, gather };
constexpr std::array<Exchange, 3> all_exchanges{Exchange::reduce, Exchange::broadcast,
                                                Exchange::gather};
[[nodiscard]] inline const char* to_string(Exchange kind) {
  return std::array{"reduce", "broadcast", "gather"}[static_cast<std::size_t>(kind)];
}

/// Collectives of one kind in a phase.
struct Exchanges {
  index_t calls = 0;
  double payload = 0;  ///< bytes that have to reach (reduce: from and to) the other ranks
};

struct PhaseCost {
  Usage usage;
  std::array<Exchanges, all_exchanges.size()> exchanges;
  double bound = 0;           ///< bytes that a rank has to send on average, by whatever algorithm
  index_t durable = 0;        ///< files that some rank makes durable while the others wait
  index_t written_alone = 0;  ///< bytes that one rank writes while the others wait
  index_t written_together = 0;  ///< bytes of this rank that all write at the same time

  PhaseCost& operator+=(const PhaseCost& other);
  [[nodiscard]] Exchanges& of(Exchange kind) { return exchanges[static_cast<std::size_t>(kind)]; }
  [[nodiscard]] const Exchanges& of(Exchange kind) const {
    return exchanges[static_cast<std::size_t>(kind)];
  }
};

/// Exchanges nothing and counts what a real group of ranks would: functions of the pipeline
/// that only talk (agree, broadcast of a text) run on it as they are. Buffers that are gathered or
/// dealt out may be empty: their offsets count. For others that would need memory there are methods
/// that take sizes.
class Ledger final : public Collectives {
 public:
  Ledger(int rank, int size, const NodePlace& place) : rank_(rank), size_(size), place_(place) {}

  [[nodiscard]] int rank() const noexcept override { return rank_; }
  [[nodiscard]] int size() const noexcept override { return size_; }
  [[nodiscard]] NodePlace place() const noexcept override { return place_; }
  void barrier() override { exchange(Exchange::reduce, 0, 0); }
  void all_reduce_sum(std::span<double> values) override { count_sum(std::ssize(values)); }
  void all_reduce_max(std::span<float> values) override {
    count_maximum(std::ssize(std::as_bytes(values)));
  }
  void reduce_scatter_sum(std::span<double> values, std::span<const index_t> offsets) override;
  void broadcast_bytes(std::span<std::byte> bytes, int root) override {
    count_broadcast(std::ssize(bytes), root);
  }
  void all_gather_bytes(std::span<std::byte> buffer, std::span<const index_t> offsets) override;
  void all_to_all_bytes(std::span<const std::byte> sent, std::span<const index_t> send_offsets,
                        std::span<std::byte> received,
                        std::span<const index_t> receive_offsets) override;
  void node_barrier() override {
    if (place_.size > 1) exchange(Exchange::reduce, 0, 0, 0);
  }
  void node_broadcast(std::span<std::byte> bytes) override;
  void all_gather_over_nodes(std::span<std::byte> buffer,
                             std::span<const index_t> offsets) override;

  /// Counts the vote of an agree.
  void vote() {
    agree(*this, [] {});
  }
  /// Counts a sum of `count` doubles.
  void count_sum(index_t count);
  void count_maximum(index_t bytes);
  void count_broadcast(index_t bytes, int root);
  /// Counts the broadcast of a length and of this many bytes.
  void count_text(index_t bytes, int root);

  /// Books what follows to this phase.
  void enter(const std::string& phase) { current_ = &phases_[phase]; }
  void add_flops(double flops) { current_->usage.flops += flops; }
  void add_read(index_t bytes) { current_->usage.bytes_read += bytes; }
  /// Adds this rank's part of a file that all write.
  void add_written(index_t bytes) {
    current_->usage.bytes_written += bytes;
    current_->written_together += bytes;
  }
  /// Adds a file of `bytes` bytes that `writer` alone writes, syncs and renames.
  void add_file(index_t bytes, int writer);
  void add_durable(index_t files) { current_->durable += files; }
  /// Adds the books of another walk of this rank, phase by phase.
  void add(const Ledger& other);
  [[nodiscard]] const std::map<std::string, PhaseCost>& phases() const { return phases_; }

 private:
  /// `others`: the share of the payload that has to be sent, by each rank on average.
  void exchange(Exchange kind, index_t sent, double payload, double others);
  /// Counts one among all ranks; nothing if there is one.
  void exchange(Exchange kind, index_t sent, double payload);

  int rank_;
  int size_;
  NodePlace place_;
  std::map<std::string, PhaseCost> phases_;
  PhaseCost* current_ = &phases_["other"];
};

}  // namespace quip::plan

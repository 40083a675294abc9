// The part of the walk that writes: the manifest, what stays as it is, blocks, hidden states.
#include "store/rest_file.hpp"
#include "walk_steps.hpp"

#include "quip/plan/walk.hpp"

namespace quip::plan {
namespace {

constexpr const char* temporary_name = ".states_00001.h5.tmp.0000000";
constexpr index_t layer_structure_bytes = 2300;  // of HDF5, around a layer's datasets

/// Counts the exchange of lengths with which Collectives::gather begins.
void count_lengths(Ledger& ledger) {
  ledger.all_gather_bytes({}, share_offsets(ledger.size(), ledger.size(), sizeof(index_t)));
}

}  // namespace

void Walk::save_manifest(Ledger& ledger, index_t blocks) const {
  agree(ledger, do_nothing);
  ledger.add_file(manifest_bytes_[at(blocks)], 0);
}

void Walk::write_rest(Ledger& ledger) const {
  ledger.enter("write");
  const auto tensors = static_cast<index_t>(rest_.size());
  const std::vector<Chunk> chunks = chunks_of(rest_);
  agree(ledger, do_nothing);
  ledger.count_text(std::ssize(std::string(".rest.h5.tmp.0000000")), 0);
  ledger.count_text(std::ssize(a_digest), 0);
  ledger.count_broadcast(tensors * index_t{sizeof(index_t)}, 0);
  agree(ledger, do_nothing);
  std::vector<index_t> offsets{0};
  for (index_t r = 0; r < ledger.size(); ++r) {  // chunks go to the ranks in turn
    const index_t count = (std::ssize(chunks) + ledger.size() - 1 - r) / ledger.size();
    offsets.push_back(offsets.back() + count * std::ssize(a_digest));
  }
  for (index_t c = ledger.rank(); c < std::ssize(chunks); c += ledger.size()) {
    ledger.add_read(chunks[static_cast<std::size_t>(c)].bytes);
    ledger.add_written(chunks[static_cast<std::size_t>(c)].bytes);
  }
  count_lengths(ledger);
  ledger.all_gather_bytes({}, offsets);
  ledger.add_durable(1);
  agree(ledger, do_nothing);
  save_manifest(ledger, 0);
}

void Walk::write_block(Ledger& ledger, index_t b, const std::vector<LinearSpec>& linears) const {
  ledger.enter("write");
  const int writer = static_cast<int>(b % ledger.size());
  agree(ledger, do_nothing);
  index_t bytes = 0;
  for (const LinearSpec& linear : linears) {
    bytes += stored_bytes(described(options_of(linear), linear.rows, linear.cols)) +
             layer_structure_bytes;
  }
  ledger.add_file(bytes, writer);
  if (ledger.rank() == writer) ledger.add_read(bytes);  // for its digest
  ledger.count_text(std::ssize(block_entries_[static_cast<std::size_t>(b)]), writer);
  save_manifest(ledger, b + 1);
}

void Walk::write_states(Ledger& ledger, index_t blocks) const {
  agree(ledger, do_nothing);
  ledger.count_text(std::ssize(std::string(temporary_name)), 0);
  ledger.count_text(std::ssize(a_digest), 0);
  ledger.count_broadcast(sizeof(index_t), 0);
  agree(ledger, do_nothing);
  ledger.add_written(samples_of(ledger).count() * job_.length * job_.model.family->config().hidden *
                     float_bytes);
  count_lengths(ledger);
  ledger.all_gather_bytes({}, share_offsets(job_.samples, ledger.size(), std::ssize(a_digest)));
  ledger.add_durable(1);
  agree(ledger, do_nothing);
  save_manifest(ledger, blocks);
  agree(ledger, do_nothing);
}

}  // namespace quip::plan

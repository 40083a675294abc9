#include "quip/pipeline/hidden_states.hpp"

#include "quip/core/error.hpp"
#include "quip/core/usage.hpp"
#include "quip/model/work.hpp"

namespace quip {

SampleShard shard_tokens(Collectives& comm, const TokenSet& tokens, index_t samples,
                         const Family& family) {
  const index_t max_length = family.max_length();
  SampleShard shard;
  agree(comm, [&] {
    if (tokens.length() > max_length) {
      fail("{}: sequences of {} tokens, but the model takes at most {}; tokenize with --length {}",
           tokens.file().string(), tokens.length(), max_length, max_length);
    }
    if (samples > tokens.samples()) {
      fail("{}: has {} samples, --samples asks for {}", tokens.file().string(), tokens.samples(),
           samples);
    }
    shard.samples = share_of(samples, comm.rank(), comm.size());
    shard.length = tokens.length();
    shard.ids = tokens.read(shard.samples.first, shard.samples.count(), family.config().vocabulary);
    for (index_t i = 0; i <= shard.samples.count(); ++i) {
      shard.offsets.push_back(i * shard.length);
    }
  });
  return shard;
}

Tensor embed_shard(Collectives& comm, Backend& backend, const Family& family,
                   const TensorSource& source, const WeightSet& ends, const SampleShard& shard) {
  const TensorSpec& table = family.embedding();
  const index_t width = table.shape[1];
  Tensor states;
  agree(comm, [&] {
    states = backend.allocate_samples(shard.tokens(), family.config().hidden);
    Tensor rows = backend.allocate(shard.length, width);
    Matrix<float> host(shard.length, width);
    for (index_t s = 0; s < shard.samples.count(); ++s) {
      const index_t length = shard.length_of(s);
      for (index_t t = 0; t < length; ++t) {
        read_floats(source, table.name, shard.sample(s)[t] * width, {host.row(t), at(width)});
      }
      const TensorView embedded = rows.view().middle_rows(0, length);
      backend.upload(host.span().first(length * width), embedded);
      family.embed(backend, ends, embedded, shard.rows_of(states.view(), s));
    }
  });
  return states;
}

void forward_shard(Collectives& comm, Backend& backend, const Family& family, index_t block,
                   const WeightSet& weights, const SampleShard& shard, TensorView states) {
  agree(comm, [&] {
    backend.for_each_unit(shard.samples.count(), [&](index_t s) {
      family.forward(block, backend, weights, shard.rows_of(states, s));
      UsageMeter::current().add_flops(block_flops(family.block(block), shard.length_of(s)));
    });
  });
}

}  // namespace quip

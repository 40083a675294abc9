// Weights from a source into backend memory, read once per group of ranks and held once per node.
#pragma once

#include <string>
#include <vector>

#include "quip/backend/backend.hpp"
#include "quip/comm/collectives.hpp"
#include "quip/io/tensor_source.hpp"
#include "quip/model/family.hpp"
#include "quip/quant/code/quantized_linear.hpp"
#include "quip/store/packed_model.hpp"

namespace quip {

/// Returns the lines of a tensor (StoredLines), of `count`, that this rank reads for all: every
/// line is some rank's.
[[nodiscard]] Range share_to_read(index_t count, const NodePlace& place);
/// True if a tensor of this many bytes is cheaper read by every rank than shared out.
[[nodiscard]] bool read_by_all(const Collectives& comm, index_t bytes);

/// Loads a matrix [rows × cols] as fp32. Collective: each rank reads its
/// share of the bytes, then the nodes gather, and the ranks of a node convert into memory that they
/// share; a small tensor is read by every rank. Throws AgreedError naming the tensor if it holds a
/// NaN or an infinity.
[[nodiscard]] Tensor load_matrix(Collectives& comm, Backend& backend, const TensorSource& source,
                                 const WeightHandle& place, index_t rows, index_t cols);

/// Loads `rows` of a tensor (1-D tensors are one row) (collective).
[[nodiscard]] Tensor load_rows(Collectives& comm, Backend& backend, const TensorSource& source,
                               const std::string& name, Range rows);

/// Loads a whole tensor (collective).
[[nodiscard]] Tensor load_tensor(Collectives& comm, Backend& backend, const TensorSource& source,
                                 const std::string& name);

/// Loads every tensor of `specs` (collective).
void load_into(WeightSet& weights, Collectives& comm, Backend& backend, const TensorSource& source,
               const std::vector<TensorSpec>& specs);

/// Loads the weights of a block, from a checkpoint or from a packed model, whose quantized layers
/// are dequantized. Collective.
class BlockLoader {
 public:
  /// `packed`: the packed model that `source` is, or null.
  BlockLoader(Collectives& comm, Backend& backend, const TensorSource& source,
              const PackedModel* packed, const Family& family, index_t block);

  [[nodiscard]] index_t block() const { return block_; }
  /// Loads all but the linears of experts.
  [[nodiscard]] WeightSet load() const;
  /// Adds some linears of the block.
  void load(Range linears, WeightSet& weights) const;
  void drop(Range linears, WeightSet& weights) const;

 private:
  Collectives& comm_;
  Backend& backend_;
  const TensorSource& source_;
  const PackedModel* packed_;
  const Family& family_;
  index_t block_;
};

/// Sends the parts and attributes of a layer from one rank to all.
void broadcast_layer(Collectives& comm, QuantizedLinear& layer, int root);

/// Makes Ŵ in backend memory, the ranks of each node together (collective).
[[nodiscard]] Tensor load_dequantized(Collectives& comm, Backend& backend,
                                      const QuantizedLinear& layer);

}  // namespace quip

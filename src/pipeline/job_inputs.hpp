// The inputs of a quantization, and their description in the manifest.
#pragma once

#include <memory>

#include <nlohmann/json.hpp>

#include "quip/calib/token_set.hpp"
#include "quip/model/checkpoint.hpp"
#include "quip/pipeline/quantize.hpp"

namespace quip {

/// The inputs that every rank opens before anything is written.
struct JobInputs : Checkpoint {
  std::unique_ptr<TokenSet> tokens;
  index_t samples = 0;
};

[[nodiscard]] JobInputs open_inputs(Collectives& comm, const QuantizeOptions& options);

/// Returns a digest of a checkpoint: names, types, shapes and a few elements of every tensor.
[[nodiscard]] std::string fingerprint(const TensorSource& source);

/// Returns the bytes of the hidden states after one block.
[[nodiscard]] index_t state_bytes(const StateShape& shape);

/// Returns `asked`; if that is empty, the last ones where they take no more room than the model
/// itself: the fewer the weights, the cheaper it is to compute states again instead of writing
/// them.
[[nodiscard]] KeepStates states_to_keep(std::optional<KeepStates> asked, const StateShape& shape,
                                        const TensorSource& model);

/// Returns all that the result depends on but the arithmetic: settings, the text of config.json,
/// and digests of the other inputs.
[[nodiscard]] nlohmann::json manifest_header(const QuantizeOptions& options, index_t samples,
                                             const std::string& config,
                                             const std::string& checkpoint,
                                             const std::string& tokens);
/// Returns it with the digests of `inputs`. Collective, because reading them may fail.
[[nodiscard]] nlohmann::json manifest_header(Collectives& comm, const QuantizeOptions& options,
                                             const JobInputs& inputs);

}  // namespace quip

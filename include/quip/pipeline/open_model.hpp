// A model to run: a checkpoint, or a packed model in its place.
#pragma once

#include <filesystem>
#include <memory>

#include "quip/backend/backend.hpp"
#include "quip/comm/collectives.hpp"
#include "quip/io/tensor_source.hpp"
#include "quip/model/family.hpp"
#include "quip/pipeline/loader.hpp"
#include "quip/pipeline/quantize.hpp"
#include "quip/store/packed_model.hpp"

namespace quip {

struct OpenModel {
  std::unique_ptr<TensorSource> checkpoint;  ///< null if `packed`
  std::unique_ptr<PackedModel> packed;
  std::unique_ptr<Family> family;
  std::vector<std::string> remarks;  ///< on a checkpoint, for the user

  /// Returns the source of the tensors that are not quantized.
  [[nodiscard]] const TensorSource& source() const {
    return packed ? static_cast<const TensorSource&>(*packed) : *checkpoint;
  }
  /// Returns the options with which layers are stored; for a checkpoint, `skip` matches them all.
  [[nodiscard]] QuantizeOptions stored_as() const;
  [[nodiscard]] BlockLoader loader(Collectives& comm, Backend& backend, index_t block) const {
    return {comm, backend, source(), packed.get(), *family, block};
  }
};

/// Throws Error unless `packed` was made from the checkpoint in `model`, by their config.json.
void require_made_from(const PackedModel& packed, const std::filesystem::path& model);

/// Opens the packed model if `packed` is given, else the Hugging Face directory `model`. Not
/// collective. Throws Error if both are given and the one was not made from the other, or as
/// `open_model_directory` does.
[[nodiscard]] OpenModel open_model(const std::filesystem::path& model,
                                   const std::filesystem::path& packed, bool allow_unused);

}  // namespace quip

// The fields of config.json, checked and with the families' defaults filled in.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "quip/backend/backend.hpp"
#include "quip/core/matrix.hpp"
#include "quip/io/decoded_source.hpp"

namespace quip {

/// The stretching of rotary frequencies for long contexts.
struct RopeScaling {
  enum class Kind { none, linear, llama3, yarn };
  Kind kind = Kind::none;
  double factor = 1.0;
  double low_freq_factor = 1.0;         // llama3
  double high_freq_factor = 4.0;        // llama3
  double original_max_position = 8192;  // llama3, yarn
  double beta_fast = 32.0;              // yarn
  double beta_slow = 1.0;               // yarn
  bool truncate = true;                 // yarn: the ramp's ends are whole numbers of pairs
  double attention_factor = 1.0;        // yarn: multiplies cosine and sine
  double score_factor = 1.0;            // yarn: that of mscale_all_dim
};

/// The angles by which heads are turned.
struct RopeConfig {
  double theta = 10000.0;
  RopeScaling scaling;
  double partial = 1.0;  ///< the share of a head's channels that turn
  bool interleaved = false;
};

/// What multiplies the queries of later positions: 1 + weight · ln(1 + ⌊(position + 1) / step⌋).
struct Temperature {
  float weight = 0.0F;
  float step = 1.0F;
};

/// Attention whose queries, keys and values are projected from few channels (multi-head latent
/// attention). Of a query and a key ModelConfig::head_dim channels turn.
struct LatentAttention {
  index_t query_rank = 0;  ///< channels that queries come from; 0: the block's input
  index_t rank = 0;        ///< those of keys and values
  index_t plain = 0;       ///< channels of a query and a key that do not turn
  index_t value = 0;       ///< channels of a value
};

/// The union of the known families' needs; a family reads its own part.
struct ModelConfig {
  std::string model_type;       ///< "llama", "opt", …
  std::string architecture;     ///< e.g. "LlamaForCausalLM"
  std::string text;             ///< config.json as read: stored with a packed model
  WeightFormat format;          ///< of a checkpoint's linears
  bool wrapped = false;         ///< it is the text_config of a model that has other parts as well
  std::string root = "model.";  ///< what tensors' names begin with, but for the head's
  std::string head = "lm_head.weight";
  bool custom_code = false;  ///< auto_map: it brings code of its own, which nothing runs

  index_t hidden = 0;
  index_t intermediate = 0;
  index_t blocks = 0;
  index_t heads = 0;
  index_t kv_heads = 0;
  index_t head_dim = 0;
  index_t vocabulary = 0;
  index_t max_positions = 0;
  bool tied_head = false;
  Activation activation = Activation::silu;
  float norm_epsilon = 1e-5F;

  // Decoders with rotary positions
  RopeConfig rope;
  std::optional<RopeConfig> local_rope;  ///< that of blocks with a window, where it differs
  bool attention_bias = false;           ///< q, k, v
  bool attention_output_bias = false;    ///< o
  bool mlp_bias = false;
  std::optional<index_t> sliding_window;
  std::vector<bool> windowed;  ///< by block: has that window; later ones have
  std::vector<bool> turning;   ///< by block: heads turn; later ones do
  std::optional<index_t> attention_chunk;
  std::vector<bool> chunked;  ///< by block: attends within such chunks; later ones do not
  std::optional<Temperature> temperature;  ///< in blocks whose heads do not turn
  bool head_norms = false;                 ///< every head's queries and keys are normed
  float gain_plus = 0.0F;                  ///< added to the gains of all norms

  // Mixtures of experts
  RouterShape router;               ///< without experts in a dense model
  index_t expert_intermediate = 0;  ///< width of an expert's MLP
  index_t shared_intermediate = 0;  ///< width of the MLP that all tokens have beside; 0: none
  std::vector<bool> dense;          ///< by block: has one MLP; later ones have experts
  bool experts_by_outputs = false;  ///< stacked ones, as in mxfp4: [experts × outputs × inputs]
  ClampedSwiglu swiglu;
  LatentAttention latent;

  // Multipliers and soft caps (0: none)
  double embedding_scale = 1.0;
  std::optional<double> attention_scale;  ///< of scores; none: 1/√head_dim
  double residual_scale = 1.0;            ///< of what attention and MLP add to the residual
  double head_scale = 1.0;                ///< of logits
  float score_cap = 0.0F;
  float logit_cap = 0.0F;

  // OPT
  index_t embedding_dim = 0;  ///< ≠ hidden: project_in and project_out exist
  bool norm_before = true;
  bool final_norm = true;
  bool norm_affine = true;
  bool bias = true;

  /// True if the heads of `block` turn by position.
  [[nodiscard]] bool turns(index_t block) const {
    return block >= std::ssize(turning) || turning[at(block)];
  }
  /// Returns the chunk of positions within which `block` attends; nothing: all.
  [[nodiscard]] std::optional<index_t> chunk(index_t block) const {
    return block < std::ssize(chunked) && chunked[at(block)] ? attention_chunk : std::nullopt;
  }
  /// True if `block` has a mixture of experts.
  [[nodiscard]] bool has_experts(index_t block) const {
    return router.experts > 0 && (block >= std::ssize(dense) || !dense[at(block)]);
  }
  /// Returns how many positions back, itself included, a query of `block` sees; nothing: all.
  [[nodiscard]] std::optional<index_t> window(index_t block) const {
    return block >= std::ssize(windowed) || windowed[at(block)] ? sliding_window : std::nullopt;
  }
};

/// Parses the text of a config.json; `origin` (a path) goes into messages. Throws Error for an
/// unknown architecture (listing the known), a missing or nonsensical field, or an option that no
/// family implements.
[[nodiscard]] ModelConfig parse_config(const std::string& text, const std::string& origin);

/// Reads a config.json, or that of a directory. Throws Error if there is none, or the directory is
/// an adapter; for the name of a model on the Hugging Face Hub, with the command that gets it.
[[nodiscard]] ModelConfig read_config(const std::filesystem::path& path);

}  // namespace quip

// manifest.json: the parts of a packed model and their digests.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "state_file.hpp"
#include <nlohmann/json.hpp>

#include "quip/store/packed_model.hpp"

namespace quip {

/// The format of the packed model. 2: the manifest says where the tensors of rest.h5 lie.
inline constexpr int format_version = 2;
inline constexpr const char* manifest_file_name = "manifest.json";
inline constexpr const char* rest_file_name = "rest.h5";
inline constexpr const char* model_file_name = "model.h5";
inline constexpr const char* report_file_name = "report.json";

/// A tensor of rest.h5.
struct RestEntry {
  TensorInfo info;
  index_t offset = 0;  ///< offset of its elements in the file
  std::string digest;
};

/// A parsed manifest. `document` is all of it, the caller's own keys included.
struct Manifest {
  nlohmann::json document;
  std::vector<BlockEntry> blocks;
  std::map<std::string, RestEntry> rest;
  std::vector<StateEntry> states;

  [[nodiscard]] bool complete() const { return document.at("complete") == true; }
  [[nodiscard]] bool has_rest() const { return document.contains("rest_frame"); }
};

[[nodiscard]] nlohmann::json to_json(const BlockEntry& entry);
[[nodiscard]] nlohmann::json to_json(const RestEntry& entry);

/// Returns the blocks that `manifest` lists; `where` goes into messages.
[[nodiscard]] std::vector<BlockEntry> parse_blocks(const nlohmann::json& manifest,
                                                   const std::string& where);

/// Returns indented JSON text; bytes that are no UTF-8 (a path) are replaced.
[[nodiscard]] std::string json_text(const nlohmann::json& document);

/// Writes `document` with its own digest, under `manifest_digest`.
void write_manifest(const std::filesystem::path& directory, nlohmann::json document);

/// Checks the fields of every manifest. `where` goes into messages.
[[nodiscard]] Manifest parse_manifest(nlohmann::json document, const std::string& where);

/// Reads and checks the manifest of a model, complete or not. Throws Error naming the fault.
[[nodiscard]] Manifest read_manifest(const std::filesystem::path& directory);

/// Throws Error unless the run that wrote the model came to its end.
void require_complete(const Manifest& manifest, const std::filesystem::path& directory);

/// Returns `file`, from a manifest of any origin; throws Error if it lies outside its directory.
[[nodiscard]] std::string inside_directory(const std::string& file, const std::string& where);

/// True if the manifest on disk is, byte for byte, as write_manifest wrote it.
[[nodiscard]] bool manifest_intact(const std::filesystem::path& directory);

/// Returns the digest of a model, over the digests of its layers, in order.
[[nodiscard]] std::string model_digest(const std::vector<BlockEntry>& blocks);

}  // namespace quip

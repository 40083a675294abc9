#include "manifest.hpp"

#include <limits>

#include "io/files.hpp"

#include "quip/core/digest.hpp"
#include "quip/core/error.hpp"
#include "quip/io/json.hpp"

namespace quip {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* self_digest = "manifest_digest";

std::string text_digest(const std::string& text) {
  return digest_of(std::as_bytes(std::span(text)));
}

std::array<index_t, 2> parse_extents(const json& shape, const std::string& where) {
  if (!shape.is_array() || shape.size() != 2) {
    fail("{}: {} is not the shape of a layer", where, shown(shape));
  }
  return {require_natural(shape[0], where), require_natural(shape[1], where)};
}

BlockEntry parse_block(const json& entry, const std::string& where) {
  BlockEntry block;
  block.block = require_natural(entry.at("block"), where);
  block.file = inside_directory(entry.at("file").get<std::string>(), where);
  block.file_digest = entry.at("file_digest").get<std::string>();
  block.layers = entry.at("layers").get<std::vector<std::string>>();
  block.digests = entry.at("digests").get<std::vector<std::string>>();
  for (const json& shape : entry.at("shapes")) block.shapes.push_back(parse_extents(shape, where));
  if (block.digests.size() != block.layers.size() || block.shapes.size() != block.layers.size()) {
    fail("{}: block {} lists {} layers, {} digests and {} shapes", where, block.block,
         block.layers.size(), block.digests.size(), block.shapes.size());
  }
  return block;
}

RestEntry parse_rest(const std::string& name, const json& entry, const std::string& where) {
  RestEntry rest;
  rest.info.name = name;
  const json& type = entry.at("dtype");
  const std::optional<DType> dtype = find_dtype(type.get<std::string>());
  if (!dtype) fail("{}: tensor {} has the unknown element type {}", where, name, shown(type));
  rest.info.dtype = *dtype;
  for (const json& extent : entry.at("shape")) {
    rest.info.shape.push_back(require_natural(extent, where));
  }
  rest.offset = require_natural(entry.at("offset"), where);
  rest.digest = entry.at("digest").get<std::string>();
  if (!addressable(rest.info.shape, size_of(rest.info.dtype))) {
    fail("{}: tensor {} has an impossible shape", where, name);
  }
  if (rest.offset > std::numeric_limits<index_t>::max() - rest.info.bytes()) {
    fail("{}: tensor {} lies beyond any file", where, name);
  }
  return rest;
}

}  // namespace

std::string inside_directory(const std::string& file, const std::string& where) {
  const fs::path normal = fs::path(file).lexically_normal();
  if (file.empty() || file.find('\0') != std::string::npos || normal.is_absolute() ||
      *normal.begin() == "..") {
    fail("{}: names the file {} outside its directory", where, shown(file));
  }
  return file;
}

Manifest parse_manifest(json document, const std::string& where) {
  if (!document.is_object() || document.at("format") != "quip-packed") {
    fail("{}: is no packed model's manifest", where);
  }
  if (document.at("version") != format_version) {
    fail("{}: version {} of the format; this program reads version {}", where,
         shown(document.at("version")), format_version);
  }
  if (!document.at("complete").is_boolean()) fail("{}: complete is neither true nor false", where);
  Manifest manifest;
  manifest.blocks = parse_blocks(document, where);
  for (const auto& [name, entry] : document.at("rest").items()) {
    manifest.rest.emplace(name, parse_rest(name, entry, where));
  }
  for (const json& entry : document.at("states")) {
    manifest.states.push_back(parse_state(entry, where));
  }
  manifest.document = std::move(document);
  return manifest;
}

json to_json(const BlockEntry& entry) {
  return {{"block", entry.block},   {"file", entry.file},       {"file_digest", entry.file_digest},
          {"layers", entry.layers}, {"digests", entry.digests}, {"shapes", entry.shapes}};
}

json to_json(const RestEntry& entry) {
  return {{"dtype", to_string(entry.info.dtype)},
          {"shape", entry.info.shape},
          {"offset", entry.offset},
          {"digest", entry.digest}};
}

std::vector<BlockEntry> parse_blocks(const json& manifest, const std::string& where) {
  std::vector<BlockEntry> blocks;
  for (const json& entry : manifest.at("blocks")) blocks.push_back(parse_block(entry, where));
  return blocks;
}

std::string json_text(const json& document) {
  return document.dump(2, ' ', false, json::error_handler_t::replace) + "\n";
}

void write_manifest(const fs::path& directory, json document) {
  document.erase(self_digest);
  document[self_digest] = text_digest(json_text(document));
  write_text(directory / manifest_file_name, json_text(document));
}

Manifest read_manifest(const fs::path& directory) {
  const fs::path path = directory / manifest_file_name;
  if (!fs::exists(path)) {
    fail("{}: not a packed model (it has no {})", directory.string(), manifest_file_name);
  }
  try {
    return parse_manifest(parse_json(read_text(path), path.string()), path.string());
  } catch (const json::exception& error) {
    fail("{}: the manifest is damaged ({})", path.string(), shortened(error.what()));
  }
}

void require_complete(const Manifest& manifest, const fs::path& directory) {
  if (manifest.complete()) return;
  fail("{}: the run that wrote this model did not finish; continue it with quip quantize --resume",
       directory.string());
}

bool manifest_intact(const fs::path& directory) {
  const std::string text = read_text(directory / manifest_file_name);
  json document = parse_json(text, manifest_file_name);
  // The text itself is compared, too: parsing forgives white space.
  if (!document.is_object() || json_text(document) != text) return false;
  const json recorded = document.value(self_digest, json());
  document.erase(self_digest);
  return recorded == text_digest(json_text(document));
}

std::string model_digest(const std::vector<BlockEntry>& blocks) {
  Digest digest;
  for (const BlockEntry& block : blocks) {
    for (const std::string& layer : block.digests) digest.update(layer);
  }
  return digest.hex();
}

}  // namespace quip

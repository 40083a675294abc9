// The state of an opened packed model, shared by reading and verifying.
#pragma once

#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "io/files.hpp"
#include "manifest.hpp"
#include "rest_file.hpp"

namespace quip {

/// The place of a layer in the manifest.
struct LayerPlace {
  std::size_t block = 0;
  std::size_t index = 0;
};

struct PackedModel::State {
  State(std::filesystem::path where, Manifest parsed)
      : directory(std::move(where)), manifest(std::move(parsed)), whole_(manifest.blocks.size()) {
    for (const auto& [name, entry] : manifest.rest) whole_tensors_[name];
  }

  std::filesystem::path directory;
  Manifest manifest;
  std::map<std::string, LayerPlace> places;

  /// Returns rest.h5 for plain reads of a tensor, after checking its digest once: the manifest
  /// knows where it lies. Opened on first use, so that a model with a damaged one can still be
  /// verified.
  [[nodiscard]] const File& rest_holding(const RestEntry& tensor);
  /// Returns the file of block number `block` in the manifest, after checking its digest once: HDF5
  /// crashes on some damaged files.
  [[nodiscard]] std::filesystem::path whole_block_file(std::size_t block);

 private:
  std::once_flag opened_;
  std::optional<File> rest_;
  std::map<std::string, std::once_flag> whole_tensors_;
  std::vector<std::once_flag> whole_;
};

}  // namespace quip

// What an opened packed model keeps; shared by reading and verifying.
#pragma once

#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "files.hpp"
#include "manifest.hpp"
#include "rest_file.hpp"

namespace quip {

namespace store {

/// Where a layer is listed in the manifest.
struct LayerPlace {
  std::size_t block = 0;
  std::size_t index = 0;
};

/// rest.h5, open for plain reads: HDF5 is only asked once where each tensor lies.
struct RestData {
  File file;
  std::map<std::string, index_t> offsets;
};

}  // namespace store

struct PackedModel::State {
  State(std::filesystem::path where, store::Manifest parsed)
      : directory(std::move(where)), manifest(std::move(parsed)) {}

  std::filesystem::path directory;
  store::Manifest manifest;
  std::map<std::string, store::LayerPlace> places;

  /// Opened on first use, so that a model with a damaged rest.h5 can still be verified.
  [[nodiscard]] const store::RestData& rest();

 private:
  std::once_flag opened_;
  std::optional<store::RestData> rest_;
};

}  // namespace quip

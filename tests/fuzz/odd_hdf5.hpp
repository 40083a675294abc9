// Sound HDF5 files with unexpected contents. HDF5 itself may decline a combination: then the
// object is just not there.
#pragma once

#include <filesystem>
#include <fuzzer/FuzzedDataProvider.h>
#include <string>

#include "io/hdf5.hpp"

namespace quip::fuzz {

/// The group of one layer in a block file, open for changes.
class OddFile {
 public:
  OddFile(const std::filesystem::path& path, const std::string& group);

  /// Removes an attribute of the layer or of one of its datasets; mostly puts another there.
  void disturb_attribute(FuzzedDataProvider& input) const;
  /// Removes a dataset; mostly puts something else in its place.
  void disturb_dataset(FuzzedDataProvider& input) const;

 private:
  void add_dataset(const char* name, FuzzedDataProvider& input) const;

  std::string where_;
  H5File file_;
  H5Group group_;
};

}  // namespace quip::fuzz

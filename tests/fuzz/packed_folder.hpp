// A small packed model in memory, and what its files held when they were written.
#pragma once

#include <algorithm>
#include <map>

#include "answers.hpp"
#include "io/hdf5.hpp"
#include "support/store_fixture.hpp"
#include <hdf5.h>

#include "quip/comm/collectives.hpp"
#include "quip/store/packed_model.hpp"
#include "quip/store/packed_writer.hpp"

namespace quip::fuzz {

/// Identifiers that HDF5 still holds open, but for the type of halves, which lives as long as the
/// process: none may outlive a reader.
inline ssize_t open_hdf5_objects() {
  static const bool made = half_type() >= 0;
  return H5Fget_obj_count(H5F_OBJ_ALL, H5F_OBJ_ALL) - (made ? 1 : 0);
}

/// HDF5 keeps half a megabyte an open file for the next one, instead of giving it back: four
/// times the speed.
inline void keep_hdf5_memory() {
  constexpr int most =
      32 << 20;  // bytes; without a limit, a million inputs leave a gigabyte behind
  static const herr_t done = H5set_free_list_limits(most, most, most, most, most, most);
  static_cast<void>(done);
}

class PackedFolder {
 public:
  PackedFolder() {
    keep_hdf5_memory();
    SelfCollectives comm;
    test::MemorySource source;
    source.add("norm", DType::f32, {8}, 1);
    source.add("embedding", DType::bf16, {5, 8}, 2);
    source.add("nothing", DType::f16, {0, 7}, 3);
    PackedWriter writer(comm, model(), {{"seed", 7}}, Start::fresh, KeepStates::all);
    writer.write_block(0, {layer("q", GridKind::incoherent, 3), layer("up", GridKind::minmax, 2)});
    writer.write_block(1, {layer("q1", GridKind::incoherent, 4),
                           test::random_trellis_layer("t1", 100, 130, 1, 5)});
    writer.write_states(1, {2, 3, 4}, {0, 2}, [](index_t i, std::span<float> out) {
      std::fill(out.begin(), out.end(), static_cast<float>(i));
    });
    writer.write_rest(source, source.names());
    writer.finish({{"loss", 0.5}});
    for (const std::string& file : test::files_below(model())) {
      contents_[file] = test::text_of(model() / file);
    }
  }

  [[nodiscard]] std::filesystem::path model() const { return folder_.path() / "model"; }
  [[nodiscard]] const std::string& content(const std::string& file) const {
    return contents_.at(file);
  }
  [[nodiscard]] const std::map<std::string, std::string>& contents() const { return contents_; }

 private:
  static StoredLayer layer(const std::string& name, GridKind grid, int bits) {
    return test::random_layer(name, 4, 8, bits, grid, grid == GridKind::incoherent, 5);
  }

  Folder folder_;
  std::map<std::string, std::string> contents_;
};

}  // namespace quip::fuzz

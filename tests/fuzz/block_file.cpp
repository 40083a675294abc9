// The reader of packed blocks, given sound HDF5 files that say anything: a valid layer is
// written with attributes and datasets missing, of other types, shapes and layouts, with links
// in their place, and with digests that match what was written or not.
#include "store/block_file.hpp"

#include "odd_hdf5.hpp"
#include "packed_folder.hpp"

namespace {

using namespace quip;
using namespace quip::fuzz;

/// A valid layer of a size that the input chooses.
StoredLayer chosen_layer(FuzzedDataProvider& input) {
  if (input.ConsumeIntegralInRange(0, 7) == 0) {
    return test::random_trellis_layer("layer", input.ConsumeIntegralInRange<index_t>(1, 128), 100,
                                      input.ConsumeIntegralInRange(1, 2), 1);
  }
  constexpr std::array<int, 4> bits = {2, 3, 4, 8};
  const auto grid = input.ConsumeBool() ? GridKind::minmax : GridKind::incoherent;
  const auto rows = input.ConsumeIntegralInRange<index_t>(1, 6);
  const auto cols = input.ConsumeIntegralInRange<index_t>(1, 20);
  StoredLayer stored = test::random_layer("layer", rows, cols, input.PickValueInArray(bits), grid,
                                          input.ConsumeBool(), 1);
  QuantizedLinear& layer = stored.layer;
  if (grid == GridKind::incoherent) return stored;
  if (input.ConsumeBool()) layer.group_size = input.ConsumeIntegralInRange<index_t>(1, 24);
  layer.symmetric = input.ConsumeBool();
  visit_parts([](const Part& part, auto& elements) { elements.resize(at(part.count()), 1); },
              layer);
  return stored;
}

/// Rewrites some of the file's attributes and datasets as the input says.
void disturb(const std::filesystem::path& path, FuzzedDataProvider& input) {
  const OddFile file(path, "layer");
  const int changes = input.ConsumeIntegralInRange(0, 4);
  for (int c = 0; c < changes; ++c) {
    if (input.ConsumeBool()) {
      file.disturb_attribute(input);
    } else {
      file.disturb_dataset(input);
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const Folder folder;
  const std::filesystem::path path = folder.path() / "block.h5";
  keep_hdf5_memory();
  FuzzedDataProvider input(data, size);
  const StoredLayer stored = chosen_layer(input);
  write_block_file(path, {stored});
  disturb(path, input);
  require(open_hdf5_objects() == 0);
  const std::string expected = digest_of(stored.layer);
  succeeds([&] {
    const StoredLayer read = read_block_layer(path, "layer", expected);
    require(digest_of(read.layer) == expected);
  });
  require(open_hdf5_objects() == 0);
  return 0;
}

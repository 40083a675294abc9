// The files of a packed model under their digests: after any edits, the layers of a damaged file
// are refused before HDF5 sees it, and `verify` finds the damage.
#include <fuzzer/FuzzedDataProvider.h>

#include "packed_folder.hpp"

namespace {

using namespace quip;

/// A few edits, each of the kind that disks, networks and careless people make.
std::string edited(std::string content, FuzzedDataProvider& input) {
  const int edits = input.ConsumeIntegralInRange(0, 4);
  for (int e = 0; e < edits && !content.empty(); ++e) {
    const auto at = input.ConsumeIntegralInRange<std::size_t>(0, content.size() - 1);
    switch (input.ConsumeIntegralInRange(0, 3)) {
      case 0:
        content.resize(at);
        break;
      case 1:
        content.insert(at, input.ConsumeRandomLengthString(64));
        break;
      case 2: {
        const std::string patch = input.ConsumeRandomLengthString(64);
        content.replace(at, std::min(patch.size(), content.size() - at), patch);
        break;
      }
      default:
        content[at] = static_cast<char>(content[at] ^ (1 << input.ConsumeIntegralInRange(0, 7)));
    }
  }
  return content;
}

void read_layers(const PackedModel& model, const std::string& file, bool damaged) {
  for (const BlockEntry& block : model.blocks()) {
    if (block.file != file) continue;
    for (const std::string& layer : block.layers) {
      const bool readable = fuzz::succeeds([&] { static_cast<void>(model.read_layer(layer)); });
      fuzz::require(readable == !damaged);
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const fuzz::PackedFolder folder;
  static const std::vector<std::string> files = {
      "blocks/block_00000.h5", "blocks/block_00001.h5", "rest.h5", "model.h5",
      "report.json",           "states/states_00001.h5"};
  FuzzedDataProvider input(data, size);
  const std::string& file = files[input.ConsumeIntegralInRange<std::size_t>(0, files.size() - 1)];
  const bool verify = input.ConsumeIntegralInRange(0, 15) == 0;  // reads everything: slow
  const std::string content = edited(folder.content(file), input);
  const bool damaged = content != folder.content(file);
  fuzz::write_file(folder.model() / file, content);
  const PackedModel model(folder.model());
  read_layers(model, file, damaged);
  for (const std::string& name : model.names()) {
    std::vector<std::byte> out(static_cast<std::size_t>(model.info(name).bytes()));
    fuzz::succeeds([&] { model.read(name, 0, out); });
  }
  if (verify) fuzz::require(model.verify().empty() == !damaged);
  fuzz::write_file(folder.model() / file, folder.content(file));
  fuzz::require(fuzz::open_hdf5_objects() == 0);
  return 0;
}

// model.safetensors.index.json, beside two small shards.
#include <cstring>

#include "answers.hpp"

#include "quip/io/safetensors.hpp"

namespace {

using namespace quip;

std::string shard(const std::string& header, std::size_t elements) {
  const std::uint64_t length = header.size();
  std::string file(sizeof length, '\0');
  std::memcpy(file.data(), &length, sizeof length);
  return file + header + std::string(elements, '\1');
}

const fuzz::Folder& checkpoint() {
  static const fuzz::Folder folder;
  static const bool written = [] {
    fuzz::write_file(folder.path() / "a.safetensors",
                     shard(R"({"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 8));
    fuzz::write_file(folder.path() / "b.safetensors",
                     shard(R"({"y":{"dtype":"BF16","shape":[3],"data_offsets":[0,6]},)"
                           R"("z":{"dtype":"I8","shape":[1],"data_offsets":[6,7]}})",
                           7));
    return true;
  }();
  static_cast<void>(written);
  return folder;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto& folder = checkpoint().path();
  fuzz::write_file(folder / "model.safetensors.index.json", fuzz::text_of(data, size));
  fuzz::succeeds([&] {
    const auto source = open_checkpoint(folder);
    for (const std::string& name : source->names()) {
      std::vector<std::byte> bytes(static_cast<std::size_t>(source->info(name).bytes()));
      source->read(name, 0, bytes);
    }
  });
  return 0;
}

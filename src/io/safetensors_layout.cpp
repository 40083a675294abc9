#include "safetensors_layout.hpp"

#include <bit>
#include <cstring>

#include <nlohmann/json.hpp>

namespace quip {

static_assert(std::endian::native == std::endian::little,
              "safetensors and our files are little-endian");

SafetensorsLayout lay_out_safetensors(const std::vector<TensorInfo>& tensors) {
  SafetensorsLayout layout;
  nlohmann::ordered_json header;
  header["__metadata__"] = {{"format", "pt"}};
  for (const TensorInfo& tensor : tensors) {
    header[tensor.name] = {{"dtype", to_string(tensor.dtype)},
                           {"shape", tensor.shape},
                           {"data_offsets", {layout.bytes, layout.bytes + tensor.bytes()}}};
    layout.offsets.push_back(layout.bytes);
    layout.bytes += tensor.bytes();
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');  // the elements start 8-byte aligned
  const std::uint64_t length = text.size();
  layout.header.resize(sizeof length);
  std::memcpy(layout.header.data(), &length, sizeof length);
  layout.header += text;
  for (index_t& offset : layout.offsets) offset += std::ssize(layout.header);
  layout.bytes += std::ssize(layout.header);
  return layout;
}

}  // namespace quip

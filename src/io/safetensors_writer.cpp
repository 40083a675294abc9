#include "safetensors_writer.hpp"

#include <bit>
#include <cstring>

#include <nlohmann/json.hpp>

#include "quip/core/error.hpp"

namespace quip {

static_assert(std::endian::native == std::endian::little, "safetensors and our files are");

SafetensorsWriter::SafetensorsWriter(const std::filesystem::path& file,
                                     const std::vector<TensorInfo>& tensors)
    : pending_(file), file_(File::create(pending_.temporary())) {
  nlohmann::ordered_json header;
  header["__metadata__"] = {{"format", "pt"}};
  index_t offset = 0;
  for (const TensorInfo& tensor : tensors) {
    header[tensor.name] = {{"dtype", to_string(tensor.dtype)},
                           {"shape", tensor.shape},
                           {"data_offsets", {offset, offset + tensor.bytes()}}};
    offset += tensor.bytes();
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');  // the elements start 8-byte aligned
  const std::uint64_t length = text.size();
  append(std::as_bytes(std::span(&length, 1)));
  append(std::as_bytes(std::span(text)));
  end_ = position_ + offset;
}

void SafetensorsWriter::append(std::span<const std::byte> bytes) {
  file_.write_at(bytes, position_);
  position_ += static_cast<index_t>(bytes.size());
}

void SafetensorsWriter::publish() {
  if (position_ != end_) {
    fail("{}: {} bytes were written, its header says {}", pending_.temporary().string(), position_,
         end_);
  }
  pending_.publish();
}

}  // namespace quip

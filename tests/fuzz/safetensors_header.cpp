// The header of a safetensors file. The first byte says whether the rest is a whole file, or
// the header's JSON to which the target adds a fitting length and as many bytes of data as the
// next two bytes say: mutations of a length alone would rarely get past it.
#include "io/safetensors_header.hpp"

#include <cstring>

#include "answers.hpp"

namespace {

using namespace quip;

std::string file_of(const std::uint8_t* data, std::size_t size) {
  if (size < 3 || (data[0] & 1U) == 0) return fuzz::text_of(data, size).substr(size > 0 ? 1 : 0);
  const std::uint64_t length = size - 3;
  const std::size_t elements = data[1] + std::size_t{256} * data[2];
  std::string file(sizeof length, '\0');
  std::memcpy(file.data(), &length, sizeof length);
  return file + fuzz::text_of(data + 3, length) + std::string(elements, '\0');
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string file = file_of(data, size);
  const auto bytes = std::as_bytes(std::span(file));
  fuzz::succeeds([&] {
    for (const auto& [name, entry] : parse_header(bytes, "file")) {
      fuzz::require(entry.begin <= entry.end && entry.end <= std::ssize(file));
      fuzz::require(entry.info.bytes() == entry.end - entry.begin);
    }
  });
  return 0;
}

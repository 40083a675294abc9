// The EXL3 format: codebooks, order of a tile, packing and decoding against digests of what a
// decoder in numpy made of the same words (tests/data/README.md).
#include <cstring>
#include <filesystem>
#include <fstream>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "quip/core/digest.hpp"
#include "quip/core/error.hpp"
#include "quip/io/safetensors.hpp"
#include "quip/io/tensor_source.hpp"
#include "quip/quant/trellis/codebook.hpp"
#include "quip/quant/trellis/decode.hpp"
#include "quip/quant/trellis/tile.hpp"

namespace quip::trellis::trellis_format_test {
namespace {

using Words = std::vector<std::uint16_t>;

const std::filesystem::path data = QUIP_TEST_DATA;

nlohmann::json expected() { return nlohmann::json::parse(std::ifstream(data / "exl3.json")); }

template <typename T>
std::string digest(std::span<const T> elements) {
  return digest_of(std::as_bytes(elements));
}

Words read_words(const TensorSource& source, const std::string& name) {
  Words words(at(source.info(name).elements()));
  source.read(name, 0, std::as_writable_bytes(std::span(words)));
  return words;
}

/// Returns the states of all tiles of a layer.
Words states_of(const Words& packed, int bits) {
  const std::size_t size = at(packed_words(bits));
  Words states(packed.size() / size * tile_steps);
  for (std::size_t tile = 0; tile < packed.size() / size; ++tile) {
    unpack_states(packed.data() + tile * size, bits, states.data() + tile * tile_steps);
  }
  return states;
}

/// Decodes a layer whose tiles lie as in files of the format, by inputs first.
Matrix<float> decode(Codebook codebook, int bits, const Words& trellis, const Words& suh,
                     const Words& svh) {
  const index_t across = std::ssize(suh) / tile_side;
  const index_t down = std::ssize(svh) / tile_side;
  const index_t words = packed_words(bits);
  std::vector<std::uint8_t> codes(trellis.size() * 2);
  for (index_t i = 0; i < across; ++i) {
    for (index_t o = 0; o < down; ++o) {
      std::memcpy(codes.data() + (o * across + i) * words * 2,
                  trellis.data() + (i * down + o) * words, at(words * 2));
    }
  }
  const TrellisLayer layer{.inputs = std::ssize(suh),
                           .outputs = std::ssize(svh),
                           .bits = bits,
                           .codebook = codebook,
                           .codes = codes,
                           .suh = suh,
                           .svh = svh};
  Matrix<float> weights(layer.outputs, layer.inputs);
  for (index_t block = 0; block < layer.outputs / hadamard_side; ++block) {
    decode_outputs(layer, block, weights.view().middle_rows(block * hadamard_side, hadamard_side));
  }
  return weights;
}

std::uint16_t half(float value) {  // of a number that is one
  for (std::uint32_t bits = 0; bits < 1U << 16; ++bits) {
    if (from_f16(static_cast<std::uint16_t>(bits)) == value) {
      return static_cast<std::uint16_t>(bits);
    }
  }
  return 0;
}

TEST(TrellisFormat, CodebooksAreThoseOfTheReference) {
  const nlohmann::json digests = expected()["codebooks"];
  for (const char* name : {"mul1", "mcg", "3inst"}) {
    const Codebook codebook = parse_codebook(name);
    EXPECT_EQ(to_string(codebook), name);
    EXPECT_EQ(digest<std::uint16_t>(codebook_halves(codebook)), digests[name]) << name;
  }
  EXPECT_NEAR(codebook_rms(Codebook::mul1), 1.0, 0.01);
  EXPECT_THROW((void)parse_codebook("qtip"), Error);
}

TEST(TrellisFormat, LayersOfExllamav3DecodeAsByTheReference) {
  const auto source = open_safetensors(data / "exl3.safetensors");
  const nlohmann::json layers = expected()["layers"];
  ASSERT_EQ(layers.size(), 3);
  for (const nlohmann::json& layer : layers) {
    const int bits = layer["bits"];
    SCOPED_TRACE(bits);
    const Words trellis = read_words(*source, "trellis" + std::to_string(bits));
    const Words suh = read_words(*source, "suh" + std::to_string(bits));
    const Words svh = read_words(*source, "svh" + std::to_string(bits));
    EXPECT_EQ(digest<std::uint16_t>(states_of(trellis, bits)), layer["states"]);
    const Matrix<float> weights = decode(Codebook::mul1, bits, trellis, suh, svh);
    EXPECT_EQ(digest<float>(weights.span()), layer["weights"]);
  }
}

TEST(TrellisFormat, RandomWordsDecodeAsByTheReference) {
  constexpr index_t inputs = 128;
  constexpr index_t outputs = 256;
  Words suh;
  for (int i = 0; i < inputs; ++i) {
    suh.push_back(half((i % 3 == 0 ? -1.0F : 1.0F) * (0.25F + static_cast<float>(i) / 64)));
  }
  Words svh;
  for (int o = 0; o < outputs; ++o) {
    svh.push_back(half((o % 5 == 0 ? -1.0F : 1.0F) * (0.5F + static_cast<float>(o) / 128)));
  }
  const nlohmann::json layers = expected()["random"];
  ASSERT_EQ(layers.size(), 3 * max_bits);
  for (const nlohmann::json& layer : layers) {
    const int bits = layer["bits"];
    SCOPED_TRACE(layer.dump());
    Words trellis(at(inputs / tile_side * (outputs / tile_side) * packed_words(bits)));
    for (std::size_t i = 0; i < trellis.size(); ++i) {
      const std::uint64_t key = i + std::uint64_t{1000003} * static_cast<std::uint64_t>(bits);
      trellis[i] =
          static_cast<std::uint16_t>((key * 6364136223846793005U + 1442695040888963407U) >> 40);
    }
    const Words states = states_of(trellis, bits);
    EXPECT_EQ(digest<std::uint16_t>(states), layer["states"]);
    Words packed(at(packed_words(bits)));
    for (std::size_t tile = 0; tile * tile_steps < states.size(); ++tile) {
      pack_states(states.data() + tile * tile_steps, bits, packed.data());
      EXPECT_TRUE(std::equal(packed.begin(), packed.end(), trellis.data() + tile * packed.size()));
    }
    const Codebook codebook = parse_codebook(layer["codebook"].get<std::string>());
    const Matrix<float> weights = decode(codebook, bits, trellis, suh, svh);
    EXPECT_EQ(digest<float>(weights.span()), layer["weights"]);
  }
}

TEST(TrellisFormat, StepsAndTilesAreEachOthersInverse) {
  Matrix<float> tile(tile_side, tile_side);
  for (index_t i = 0; i < tile.size(); ++i) tile.data()[i] = static_cast<float>(i);
  float steps[tile_steps];
  to_steps(tile.cview(), steps);
  // Steps 0 … 8: inputs 0 1 8 9 of output 0, the same of output 8, input 2 of output 0.
  const std::vector<float> first = {0, 1, 8, 9, 128, 129, 136, 137, 2};
  EXPECT_EQ(std::vector<float>(steps, steps + 9), first);
  const Matrix<float> back(tile_side, tile_side, -1.0F);
  from_steps(steps, back.view());
  EXPECT_TRUE(std::equal(back.data(), back.data() + back.size(), tile.data()));
}

}  // namespace
}  // namespace quip::trellis::trellis_format_test

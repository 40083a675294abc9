// Made-up layers and tensors for tests of the packed model, and a folder to put them in.
#pragma once

#include <filesystem>
#include <fstream>
#include <functional>
#include <random>
#include <set>
#include <string>
#include <unistd.h>
#include <vector>

#include "support/memory_source.hpp"
#include "support/message_of.hpp"
#include <fmt/format.h>

#include "quip/core/error.hpp"
#include "quip/quant/transform/transform_kind.hpp"
#include "quip/store/packed_model.hpp"
#include "quip/store/packed_writer.hpp"

namespace quip::test {

/// A fresh folder, removed with everything in it.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "quip-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) fail("no temporary folder");
    path_ = name;
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  [[nodiscard]] const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

/// Returns a layer of valid random codes, scales and seeds.
inline StoredLayer random_layer(const std::string& name, index_t rows, index_t cols, int bits,
                                GridKind grid, bool rescale, unsigned seed) {
  std::mt19937_64 random(seed);
  std::uniform_real_distribution<float> real(0.5F, 2.0F);
  StoredLayer stored;
  stored.name = name;
  stored.method = "ldlq";
  QuantizedLinear& layer = stored.layer;
  layer.rows = rows;
  layer.cols = cols;
  layer.bits = bits;
  layer.grid = grid;
  layer.transform = grid == GridKind::minmax ? TransformKind::none : TransformKind::kronecker;
  layer.seed_u = random() | (std::uint64_t{1} << 63);  // beyond any signed integer
  layer.seed_v = random();
  layer.rescaled = rescale;
  visit_parts([](const Part& part, auto& elements) { elements.resize(at(part.count())); }, layer);
  std::vector<std::uint8_t> codes(static_cast<std::size_t>(cols));
  for (index_t i = 0; i < rows; ++i) {
    for (auto& code : codes) code = static_cast<std::uint8_t>(random() % (1U << bits));
    pack_row(codes.data(), cols, bits, layer.codes.data() + i * layer.row_bytes());
  }
  for (float& scale : layer.scale) scale = real(random);
  for (auto& zero : layer.zero) zero = static_cast<std::uint8_t>(random() % (1U << bits));
  for (float& factor : layer.rescale) factor = real(random);
  LayerStatistics& statistics = stored.statistics;
  statistics.proxy_loss = 0.25;
  statistics.relative_proxy_loss = 1e-3;
  statistics.trace_ratio = 0.5;
  statistics.damping = 0.01;
  statistics.damping_tries = 2;
  statistics.dead_channels = 3;
  statistics.rho = 2.4;
  return stored;
}

/// Returns a layer of random states (any are valid) and scales, of `outputs` × `inputs` before
/// padding.
inline StoredLayer random_trellis_layer(const std::string& name, index_t outputs, index_t inputs,
                                        int bits, unsigned seed) {
  std::mt19937_64 random(seed);
  StoredLayer stored{name, "ldlq", {}, {}};
  QuantizedLinear& layer = stored.layer;
  layer.codebook = CodebookKind::trellis;
  layer.trellis = trellis::Codebook::mcg;
  layer.transform = TransformKind::hadamard_128;
  layer.rows = padded(layer.transform, outputs);
  layer.cols = padded(layer.transform, inputs);
  layer.row_padding = layer.rows - outputs;
  layer.col_padding = layer.cols - inputs;
  layer.bits = bits;
  layer.seed_u = random();
  layer.seed_v = random();
  const auto fill = [&](const Part& part, auto& elements) {
    elements.resize(at(part.count()));
    for (auto& element : elements) element = static_cast<std::uint8_t>(random());
  };
  visit_parts(fill, layer);
  return stored;
}

inline std::string text_of(const std::filesystem::path& file) {
  std::ifstream stream(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

/// Returns the paths of all files below a directory, relative to it.
inline std::set<std::string> files_below(const std::filesystem::path& directory) {
  std::set<std::string> files;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(directory)) {
    if (entry.is_regular_file())
      files.insert(std::filesystem::relative(entry.path(), directory).string());
  }
  return files;
}

/// Returns the layers of block 0 or 1.
inline std::vector<StoredLayer> random_block(index_t number) {
  const auto seed = static_cast<unsigned>(10 * number);
  const std::string prefix = fmt::format("model.layers.{}.", number);
  std::vector<StoredLayer> layers{
      random_layer(prefix + "self_attn.q_proj", 24, 40, 3, GridKind::incoherent, true, seed),
      random_layer(prefix + "mlp.up_proj", 17, 33, 2, GridKind::minmax, false, seed + 1)};
  if (number == 1) {
    layers.push_back(random_trellis_layer(prefix + "mlp.down_proj", 100, 130, 1, seed + 2));
  }
  return layers;
}

/// Adds small tensors of every type; `large` adds one that spans several chunks.
inline void fill(MemorySource& source, bool large) {
  source.add("model.norm.weight", DType::f32, {40}, 1);
  source.add("model.embed_tokens.weight", DType::bf16, {50, 40}, 2);
  source.add("lm_head.weight", DType::f16, {50, 40}, 3);
  source.add("model.scalar", DType::f32, {}, 4);
  source.add("model.nothing", DType::f16, {0, 7}, 5);
  if (large) source.add("model.large", DType::bf16, {3, 5'000'001}, 6);
}

/// Writes a complete model of two blocks, with the hidden states between them (collective).
inline void write_model(Collectives& comm, const std::filesystem::path& directory, bool large) {
  MemorySource source;
  fill(source, large);
  PackedWriter writer(comm, directory, {{"options", {{"bits", 3}}}, {"seed", 7}}, Start::fresh,
                      KeepStates::all);
  for (index_t number = 0; number < 2; ++number) writer.write_block(number, random_block(number));
  writer.write_rest(source, source.names());
  const StateShape shape{5, 4, 6};
  writer.write_states(1, shape, share_of(shape.samples, comm.rank(), comm.size()),
                      [](index_t i, std::span<float> out) {
                        std::fill(out.begin(), out.end(), static_cast<float>(i) + 0.5F);
                      });
  writer.finish({{"perplexity", 12.5}});
}

}  // namespace quip::test

// PackedModel::verify: reads everything and names what is wrong; never gives up early.
#include <functional>

#include "block_file.hpp"
#include "hdf5.hpp"
#include "packed_state.hpp"

#include "quip/core/digest.hpp"
#include "quip/core/error.hpp"

namespace quip {
namespace {

namespace fs = std::filesystem;
using namespace store;

/// Collects one line per thing that is wrong.
class Findings {
 public:
  /// Runs a check; whatever it throws becomes a line.
  void attempt(const std::function<void()>& work) {
    try {
      work();
    } catch (const std::exception& error) {
      add(error.what());
    }
  }
  void add(std::string line) { lines_.push_back(std::move(line)); }
  [[nodiscard]] std::vector<std::string> take() { return std::move(lines_); }

 private:
  std::vector<std::string> lines_;
};

void verify_file(Findings& findings, const fs::path& file, const std::string& digest) {
  findings.attempt([&] {
    if (digest_file(file) != digest) {
      fail("{}: the file's bytes do not match its digest in the manifest", file.string());
    }
  });
}

void verify_block(Findings& findings, const fs::path& directory, const BlockEntry& block) {
  const fs::path file = directory / block.file;
  if (!fs::exists(file)) {
    findings.add(fmt::format("{}: the file is missing", file.string()));
    return;
  }
  verify_file(findings, file, block.file_digest);
  for (std::size_t l = 0; l < block.layers.size(); ++l) {
    findings.attempt([&] {
      const StoredLayer stored = read_block_layer(file, block.layers[l], block.digests[l]);
      if (stored.layer.rows != block.shapes[l][0] || stored.layer.cols != block.shapes[l][1]) {
        fail("{}: layer {} is {} × {}; the manifest says {} × {}", file.string(), stored.name,
             stored.layer.rows, stored.layer.cols, block.shapes[l][0], block.shapes[l][1]);
      }
    });
  }
}

std::string tensor_digest(const File& file, const TensorInfo& tensor, index_t offset) {
  const Buffer<std::byte> buffer(std::min(kChunkBytes, tensor.bytes()));
  std::vector<std::string> digests;
  for (const Chunk& chunk : chunks_of({tensor})) {
    const auto bytes = buffer.span().first(static_cast<std::size_t>(chunk.bytes));
    file.read_at(bytes, offset + chunk.begin);
    digests.push_back(digest_of(std::span<const std::byte>(bytes)));
  }
  return digest_of_chunks(digests);
}

void verify_rest(Findings& findings, const fs::path& directory, const Manifest& manifest) {
  const fs::path path = directory / kRestFile;
  if (!manifest.document.contains("rest_frame")) return;
  findings.attempt([&] {
    std::vector<TensorInfo> tensors;
    for (const auto& [name, entry] : manifest.rest) tensors.push_back(entry.info);
    const std::vector<index_t> offsets = rest_offsets(path, tensors);
    const File file = File::open_read(path);
    for (std::size_t t = 0; t < tensors.size(); ++t) {
      findings.attempt([&] {
        if (tensor_digest(file, tensors[t], offsets[t]) !=
            manifest.rest.at(tensors[t].name).digest) {
          fail("{}: tensor {} does not match its digest", path.string(), tensors[t].name);
        }
      });
    }
    if (frame_digest(path, tensors, offsets) != manifest.document.at("rest_frame")) {
      fail("{}: the file's structure does not match its digest in the manifest", path.string());
    }
  });
}

/// The external links of model.h5 lead to the layers and to rest.h5.
void verify_links(Findings& findings, const fs::path& directory, const Manifest& manifest) {
  const fs::path path = directory / kModelFile;
  findings.attempt([&] {
    const H5File file = open_hdf5(path);
    const auto follow = [&](const std::string& link) {
      findings.attempt([&] {
        const H5Object target(H5Oopen(file.get(), link.c_str(), H5P_DEFAULT), "H5Oopen",
                              fmt::format("{}: link {}", path.string(), link));
      });
    };
    for (const BlockEntry& block : manifest.blocks) {
      for (const std::string& layer : block.layers) follow("/layers/" + layer);
    }
    if (manifest.document.contains("rest_frame")) follow("/rest");
  });
}

}  // namespace

std::vector<std::string> PackedModel::verify() const {
  const fs::path& directory = state_->directory;
  const Manifest& manifest = state_->manifest;
  Findings findings;
  findings.attempt([&] {
    if (!manifest_intact(directory)) {
      fail("{}: was changed after it was written", (directory / kManifestFile).string());
    }
    if (manifest.document.at("digest") != digest()) {
      fail("{}: the model's digest does not follow from its layers' digests", describe());
    }
  });
  for (const BlockEntry& block : manifest.blocks) verify_block(findings, directory, block);
  verify_rest(findings, directory, manifest);
  for (const char* file : {kModelFile, kReportFile}) {
    findings.attempt([&] {
      const auto digest = manifest.document.at("files").at(file).get<std::string>();
      verify_file(findings, directory / file, digest);
    });
  }
  verify_links(findings, directory, manifest);
  return findings.take();
}

}  // namespace quip

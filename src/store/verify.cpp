// Reads everything and names what is wrong; never gives up early.
#include "verify.hpp"

#include <functional>

#include "block_file.hpp"
#include "io/hdf5.hpp"
#include "packed_state.hpp"

#include "quip/core/digest.hpp"
#include "quip/core/error.hpp"
#include "quip/store/packed_writer.hpp"

namespace quip {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

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
  [[nodiscard]] std::size_t count() const { return lines_.size(); }
  [[nodiscard]] std::vector<std::string> take() { return std::move(lines_); }

 private:
  std::vector<std::string> lines_;
};

// Each of these returns whether a file's bytes are those that were written: only then may
// HDF5, which crashes on some damaged files, look at them.

bool verify_file(Findings& findings, const fs::path& file, const std::string& digest) {
  const std::size_t before = findings.count();
  findings.attempt([&] { require_digest(file, digest); });
  return findings.count() == before;
}

bool verify_block(Findings& findings, const fs::path& directory, const BlockEntry& block,
                  json* report) {
  const fs::path file = directory / block.file;
  if (!verify_file(findings, file, block.file_digest)) return false;
  if (report != nullptr) *report = json::array();
  for (std::size_t l = 0; l < block.layers.size(); ++l) {
    findings.attempt([&] {
      const StoredLayer stored = read_block_layer(file, block.layers[l], block.digests[l]);
      if (stored.layer.rows != block.shapes[l][0] || stored.layer.cols != block.shapes[l][1]) {
        fail("{}: layer {} is {} × {}; the manifest says {} × {}", file.string(), stored.name,
             stored.layer.rows, stored.layer.cols, block.shapes[l][0], block.shapes[l][1]);
      }
      if (report != nullptr) report->push_back(to_json(stored));
    });
  }
  return true;
}

bool verify_rest(Findings& findings, const fs::path& directory, const Manifest& manifest) {
  const fs::path path = directory / kRestFile;
  if (!manifest.has_rest()) return false;
  const std::size_t before = findings.count();
  findings.attempt([&] {
    const File file = File::open_read(path);
    for (const auto& tensor : manifest.rest) {
      findings.attempt([&] { require_tensor(file, tensor.second, path.string()); });
    }
    require_rest_frame(path, manifest);
  });
  if (findings.count() != before) return false;
  findings.attempt([&] { require_rest_datasets(path, manifest); });
  return true;
}

/// The external links of model.h5: they are to lead to `targets`.
void verify_links(Findings& findings, const fs::path& model,
                  const std::vector<std::string>& targets) {
  findings.attempt([&] {
    const H5File file = open_hdf5(model);
    for (const std::string& link : targets) {
      findings.attempt([&] {
        const H5Object target(H5Oopen(file.get(), link.c_str(), H5P_DEFAULT), "H5Oopen",
                              fmt::format("{}: link {}", model.string(), link));
      });
    }
  });
}

/// model.h5 and report.json; model.h5 is to lead to `targets`.
void verify_summaries(Findings& findings, const fs::path& directory, const Manifest& manifest,
                      const std::vector<std::string>& targets) {
  const auto verify_listed = [&](const char* file) {
    bool whole = false;
    findings.attempt([&] {
      const auto digest = manifest.document.at("files").at(file).get<std::string>();
      whole = verify_file(findings, directory / file, digest);
    });
    return whole;
  };
  verify_listed(kReportFile);
  if (verify_listed(kModelFile)) verify_links(findings, directory / kModelFile, targets);
}

void verify_state(Findings& findings, const fs::path& directory, const StateEntry& state) {
  findings.attempt([&] {
    SelfCollectives self;
    read_state_file(self, directory, state, {0, state.shape.samples},
                    [](index_t /*sample*/, std::span<const float> /*values*/) {});
  });
}

}  // namespace

std::vector<std::string> check_block(const fs::path& directory, const BlockEntry& block,
                                     json* report) {
  Findings findings;
  verify_block(findings, directory, block, report);
  return findings.take();
}

std::vector<std::string> check_state(const fs::path& directory, const StateEntry& state) {
  Findings findings;
  verify_state(findings, directory, state);
  return findings.take();
}

std::vector<std::string> check_rest(const fs::path& directory, const Manifest& manifest) {
  Findings findings;
  verify_rest(findings, directory, manifest);
  return findings.take();
}

std::vector<std::string> check_summaries(const fs::path& directory, const Manifest& manifest) {
  Findings findings;
  verify_summaries(findings, directory, manifest, {});
  return findings.take();
}

std::vector<std::string> PackedModel::verify() const {
  const fs::path& directory = state_->directory;
  const Manifest& manifest = state_->manifest;
  Findings findings;
  findings.attempt([&] {
    if (manifest.document.at("digest") != digest()) {
      fail("{}: the model's digest does not follow from its layers' digests", describe());
    }
  });
  std::vector<std::string> targets;  // of model.h5's links, in files that are whole
  for (const BlockEntry& block : manifest.blocks) {
    if (!verify_block(findings, directory, block, nullptr)) continue;
    for (const std::string& layer : block.layers) targets.push_back("/layers/" + layer);
  }
  if (verify_rest(findings, directory, manifest)) targets.emplace_back("/rest");
  for (const StateEntry& state : manifest.states) verify_state(findings, directory, state);
  verify_summaries(findings, directory, manifest, targets);
  return findings.take();
}

}  // namespace quip

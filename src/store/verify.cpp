// Reads everything and names all faults; never gives up early.
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

/// Collects one line for each fault.
class Findings {
 public:
  /// Runs a check; whatever it throws becomes a line. True if it threw nothing.
  bool attempt(const std::function<void()>& work) {
    try {
      work();
      return true;
    } catch (const std::exception& error) {
      lines_.emplace_back(error.what());
      return false;
    }
  }
  /// True if there are none.
  bool add(const std::vector<std::string>& lines) {
    lines_.insert(lines_.end(), lines.begin(), lines.end());
    return lines.empty();
  }
  [[nodiscard]] bool empty() const { return lines_.empty(); }
  [[nodiscard]] std::vector<std::string> take() { return std::move(lines_); }

 private:
  std::vector<std::string> lines_;
};

}  // namespace

// HDF5, which crashes on some damaged files, looks at those only whose digest was found right.

std::vector<std::string> check_block(const fs::path& directory, const BlockEntry& block,
                                     json* report) {
  Findings findings;
  const fs::path file = directory / block.file;
  if (!findings.attempt([&] { require_digest(file, block.file_digest); })) return findings.take();
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
  return findings.take();
}

std::vector<std::string> check_state(const fs::path& directory, const StateEntry& state) {
  Findings findings;
  findings.attempt([&] {
    SelfCollectives self;
    read_state_file(self, directory, state, {0, state.shape.samples},
                    [](index_t /*sample*/, std::span<const float> /*values*/) {});
  });
  return findings.take();
}

std::vector<std::string> check_rest(const fs::path& directory, const Manifest& manifest) {
  const fs::path path = directory / rest_file_name;
  Findings findings;
  findings.attempt([&] {
    const File file = File::open_read(path);
    for (const auto& tensor : manifest.rest) {
      findings.attempt([&] { require_tensor(file, tensor.second, path.string()); });
    }
    require_rest_frame(path, manifest);
  });
  if (findings.empty()) findings.attempt([&] { require_rest_datasets(path, manifest); });
  return findings.take();
}

std::vector<std::string> check_summaries(const fs::path& directory, const Manifest& manifest,
                                         const std::vector<std::string>& targets) {
  Findings findings;
  const auto attempt_listed = [&](const char* file) {
    return findings.attempt([&] {
      const auto digest = manifest.document.at("files").at(file).get<std::string>();
      require_digest(directory / file, digest);
    });
  };
  attempt_listed(report_file_name);
  if (!attempt_listed(model_file_name)) return findings.take();
  findings.attempt([&] {
    const fs::path model = directory / model_file_name;
    const H5File file = open_hdf5(model);
    for (const std::string& link : targets) {
      findings.attempt([&] {
        const H5Object target(H5Oopen(file.get(), link.c_str(), H5P_DEFAULT), "H5Oopen",
                              fmt::format("{}: link {}", model.string(), link));
      });
    }
  });
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
  std::vector<std::string> targets;  // targets of model.h5's links into undamaged files
  for (const BlockEntry& block : manifest.blocks) {
    if (!findings.add(check_block(directory, block))) continue;
    for (const std::string& layer : block.layers) targets.push_back("/layers/" + layer);
  }
  if (manifest.has_rest() && findings.add(check_rest(directory, manifest))) {
    targets.emplace_back("/rest");
  }
  for (const StateEntry& state : manifest.states) findings.add(check_state(directory, state));
  findings.add(check_summaries(directory, manifest, targets));
  return findings.take();
}

}  // namespace quip

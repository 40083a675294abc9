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

using Lines = std::vector<std::string>;

/// Runs a check, and adds what it throws to `lines`. True if it threw nothing.
bool attempt(Lines& lines, const std::function<void()>& work) {
  try {
    work();
    return true;
  } catch (const std::exception& error) {
    lines.emplace_back(error.what());
    return false;
  }
}

/// Appends `more` to `lines`. True if there was nothing to append.
bool append(Lines& lines, const Lines& more) {
  lines.insert(lines.end(), more.begin(), more.end());
  return more.empty();
}

}  // namespace

// HDF5, which crashes on some damaged files, looks at those only whose digest was found right.

std::vector<std::string> check_block(const fs::path& directory, const BlockEntry& block,
                                     json* report) {
  Lines lines;
  const fs::path file = directory / block.file;
  if (!attempt(lines, [&] { require_digest(file, block.file_digest); })) return lines;
  if (report != nullptr) *report = json::array();
  for (std::size_t l = 0; l < block.layers.size(); ++l) {
    attempt(lines, [&] {
      const StoredLayer stored = read_block_layer(file, block.layers[l], block.digests[l]);
      if (stored.layer.outputs() != block.shapes[l][0] ||
          stored.layer.inputs() != block.shapes[l][1]) {
        fail("{}: layer {} is {} × {}; the manifest says {} × {}", file.string(), stored.name,
             stored.layer.outputs(), stored.layer.inputs(), block.shapes[l][0], block.shapes[l][1]);
      }
      if (report != nullptr) report->push_back(to_json(stored));
    });
  }
  return lines;
}

std::vector<std::string> check_state(const fs::path& directory, const StateEntry& state) {
  Lines lines;
  attempt(lines, [&] {
    SelfCollectives self;
    read_state_file(self, directory, state, {0, state.shape.samples},
                    [](index_t /*sample*/, std::span<const float> /*values*/) {});
  });
  return lines;
}

std::vector<std::string> check_rest(const fs::path& directory, const Manifest& manifest) {
  const fs::path path = directory / rest_file_name;
  Lines lines;
  attempt(lines, [&] {
    const File file = File::open_read(path);
    for (const auto& tensor : manifest.rest) {
      attempt(lines, [&] { require_tensor(file, tensor.second, path.string()); });
    }
    require_rest_frame(path, manifest);
  });
  if (lines.empty()) attempt(lines, [&] { require_rest_datasets(path, manifest); });
  return lines;
}

std::vector<std::string> check_summaries(const fs::path& directory, const Manifest& manifest,
                                         const std::vector<std::string>& targets) {
  Lines lines;
  const auto attempt_listed = [&](const char* file) {
    return attempt(lines, [&] {
      const auto digest = manifest.document.at("files").at(file).get<std::string>();
      require_digest(directory / file, digest);
    });
  };
  attempt_listed(report_file_name);
  if (!attempt_listed(model_file_name)) return lines;
  attempt(lines, [&] {
    const fs::path model = directory / model_file_name;
    const H5File file = open_hdf5(model);
    for (const std::string& link : targets) {
      attempt(lines, [&] {
        const H5Object target(H5Oopen(file.get(), link.c_str(), H5P_DEFAULT), "H5Oopen",
                              fmt::format("{}: link {}", model.string(), link));
      });
    }
  });
  return lines;
}

std::vector<std::string> PackedModel::verify() const {
  const fs::path& directory = state_->directory;
  const Manifest& manifest = state_->manifest;
  Lines lines;
  attempt(lines, [&] {
    if (manifest.document.at("digest") != digest()) {
      fail("{}: the model's digest does not follow from its layers' digests", describe());
    }
  });
  std::vector<std::string> targets;  // targets of model.h5's links into undamaged files
  for (const BlockEntry& block : manifest.blocks) {
    if (!append(lines, check_block(directory, block))) continue;
    for (const std::string& layer : block.layers) targets.push_back("/layers/" + layer);
  }
  if (manifest.has_rest() && append(lines, check_rest(directory, manifest))) {
    targets.emplace_back("/rest");
  }
  for (const StateEntry& state : manifest.states) append(lines, check_state(directory, state));
  append(lines, check_summaries(directory, manifest, targets));
  return lines;
}

}  // namespace quip

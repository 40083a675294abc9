#include "run_start.hpp"

#include <algorithm>
#include <set>

#include "io/directory_lock.hpp"
#include "io/files.hpp"
#include "manifest.hpp"
#include "verify.hpp"
#include <fmt/ranges.h>

#include "quip/core/error.hpp"
#include "quip/io/json.hpp"

namespace quip {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

/// Returns the paths in a folder, sorted; none if there is no such folder.
std::vector<fs::path> paths_in(const fs::path& folder) {
  if (!fs::exists(folder)) return {};
  std::vector<fs::path> paths{fs::directory_iterator(folder), fs::directory_iterator()};
  std::ranges::sort(paths);
  return paths;
}

/// Returns the names in a folder, temporary files of this program left out.
std::vector<std::string> contents(const fs::path& folder) {
  std::vector<std::string> names;
  for (const fs::path& path : paths_in(folder)) {
    if (path.filename() != lock_file && !is_temporary(path)) names.push_back(path.filename());
  }
  return names;
}

/// Removes temporary files: with the lock held, they belong to runs that are no more.
void remove_temporaries(const fs::path& directory) {
  for (const char* folder : {".", "blocks", "states"}) {
    for (const fs::path& path : paths_in(directory / folder)) {
      if (is_temporary(path)) remove_file(path);
    }
  }
}

/// Lists each value that differs, as in "options.bits: 2 there, 3 now".
void list_differences(const json& there, const json& now, const std::string& path,
                      std::vector<std::string>& out) {
  if (there == now) return;
  if (!there.is_object() || !now.is_object()) {
    out.push_back(fmt::format("{}: {} there, {} now", path, shown(there), shown(now)));
    return;
  }
  std::set<std::string> keys;
  for (const auto& item : there.items()) keys.insert(item.key());
  for (const auto& item : now.items()) keys.insert(item.key());
  for (const std::string& key : keys) {
    list_differences(there.value(key, json()), now.value(key, json()),
                     path.empty() ? key : fmt::format("{}.{}", path, key), out);
  }
}

void require_same_header(const fs::path& directory, const json& manifest, const json& header) {
  std::vector<std::string> differences;
  for (const auto& [key, value] : header.items()) {
    list_differences(manifest.value(key, json()), value, key, differences);
  }
  if (differences.empty()) return;
  constexpr std::size_t most = 4;
  if (differences.size() > most) {
    differences[most] = fmt::format("{} more", differences.size() - most);
    differences.resize(most + 1);
  }
  fail("{}: holds a run with other settings ({}); give the same again, or another --out",
       directory.string(), fmt::join(differences, "; "));
}

/// Returns the blocks and states that a damaged manifest still lists in full; digests decide later.
json salvage(const fs::path& directory, const json& header, std::vector<std::string>& notes) {
  json manifest = new_manifest(header);
  notes.push_back(fmt::format("{}: is damaged; it is made anew from what its files hold",
                              (directory / manifest_file_name).string()));
  try {
    const Manifest found = read_manifest(directory);
    for (const BlockEntry& block : found.blocks) manifest["blocks"].push_back(to_json(block));
    for (const StateEntry& state : found.states) manifest["states"].push_back(to_json(state));
    for (const auto& [name, entry] : found.rest) manifest["rest"][name] = to_json(entry);
    if (found.has_rest()) manifest["rest_frame"] = found.document.at("rest_frame");
  } catch (const Error& error) {
    notes.emplace_back(error.what());
    manifest = new_manifest(header);
  }
  return manifest;
}

}  // namespace

std::optional<json> earlier_header(const fs::path& directory, const std::string& key) {
  if (!fs::exists(directory / manifest_file_name)) return std::nullopt;
  try {
    const json manifest = read_manifest(directory).document;
    if (manifest.contains(key)) return manifest.at(key);
  } catch (const Error&) {  // what is wrong with it is said where the run begins
  }
  return std::nullopt;
}

json new_manifest(const json& header) {
  json manifest = header;
  manifest.update({{"format", "quip-packed"},
                   {"version", format_version},
                   {"complete", false},
                   {"blocks", json::array()},
                   {"states", json::array()},
                   {"rest", json::object()}});
  return manifest;
}

json open_run(const fs::path& directory, const json& header, Start start,
              std::vector<std::string>& notes) {
  const std::vector<std::string> found = contents(directory);
  if (start == Start::fresh && !found.empty()) {
    fail(
        "{}: the output directory is not empty; continue an interrupted run with --resume, or "
        "choose another",
        directory.string());
  }
  remove_temporaries(directory);
  if (!fs::exists(directory / manifest_file_name)) {
    // A run that ends before its first manifest leaves an empty folder of blocks.
    const bool untouched = found.empty() || (found.size() == 1 && found[0] == "blocks" &&
                                             contents(directory / "blocks").empty());
    if (untouched) return new_manifest(header);
    if (start != Start::repair) {
      fail("{}: holds {}, but no manifest of a run to go on with; choose another --out",
           directory.string(), found[0]);
    }
  }
  bool intact = false;
  try {
    intact = manifest_intact(directory);
  } catch (const Error&) {  // missing or no JSON: treated as changed
  }
  if (start == Start::repair && !intact) return salvage(directory, header, notes);
  if (!intact) {
    fail("{}: was changed after it was written; --repair makes it anew",
         (directory / manifest_file_name).string());
  }
  json manifest = read_manifest(directory).document;
  require_same_header(directory, manifest, header);
  const auto blocks = manifest.at("blocks").size();
  notes.push_back(manifest.at("complete") == true
                      ? fmt::format("{}: was complete", directory.string())
                      : fmt::format("{}: {} block{} finished by an earlier run", directory.string(),
                                    blocks, blocks == 1 ? " was" : "s were"));
  return manifest;
}

namespace {

/// Appends the lines of all ranks, in the order of ranks. Collective.
void gather_lines(Collectives& comm, const std::vector<std::string>& mine,
                  std::vector<std::string>& all) {
  const std::string own = json(mine).dump(-1, ' ', false, json::error_handler_t::replace);
  for (const std::string& text : comm.gather(own)) {
    for (const json& line : json::parse(text)) all.push_back(line.get<std::string>());
  }
}

}  // namespace

void drop_damaged(Collectives& comm, const fs::path& directory, json& manifest,
                  std::vector<std::string>& notes) {
  const std::string where = (directory / manifest_file_name).string();
  const Manifest parsed = parse_manifest(manifest, where);
  const std::size_t size = at(comm.size());
  std::vector<std::string> lines;
  // One flag a block, one a state, one for rest.h5: 1 if it is damaged.
  const std::size_t blocks = parsed.blocks.size();
  const std::size_t states = parsed.states.size();
  std::vector<float> bad(blocks + states + 1, 0.0F);
  std::vector<std::string> reports(blocks);
  agree(comm, [&] {
    for (std::size_t i = at(comm.rank()); i < bad.size(); i += size) {
      std::vector<std::string> findings;
      if (i < blocks) {
        json report;
        findings = check_block(directory, parsed.blocks[i], &report);
        reports[i] = report.dump();
      } else if (i < blocks + states) {
        findings = check_state(directory, parsed.states[i - blocks]);
      } else if (parsed.has_rest()) {
        findings = check_rest(directory, parsed);
      }
      bad[i] = findings.empty() ? 0.0F : 1.0F;
      lines.insert(lines.end(), findings.begin(), findings.end());
    }
  });
  comm.all_reduce_max(bad);
  gather_lines(comm, lines, notes);
  json kept_blocks = json::array();
  json kept_states = json::array();
  for (std::size_t i = 0; i < blocks; ++i) {
    comm.broadcast(reports[i], static_cast<int>(i % size));
    if (bad[i] > 0) continue;
    json entry = to_json(parsed.blocks[i]);
    entry["report"] = json::parse(reports[i]);
    kept_blocks.push_back(std::move(entry));
  }
  for (std::size_t i = 0; i < states; ++i) {
    if (bad[blocks + i] == 0) kept_states.push_back(to_json(parsed.states[i]));
  }
  const auto dropped = static_cast<index_t>(std::count(bad.begin(), bad.end(), 1.0F));
  notes.push_back(
      fmt::format("{}: {} of {} blocks are whole", directory.string(), kept_blocks.size(), blocks));
  manifest["blocks"] = std::move(kept_blocks);
  manifest["states"] = std::move(kept_states);
  if (bad.back() > 0) {
    manifest["rest"] = json::object();
    manifest.erase("rest_frame");
  }
  // Files that are made from all of it are cheap to make again.
  if (dropped > 0 || manifest.at("complete") != true ||
      !check_summaries(directory, parsed).empty()) {
    manifest["complete"] = false;
    manifest.erase("files");
    manifest.erase("digest");
  }
}

void remove_unlisted_states(const fs::path& directory, const json& manifest) {
  const fs::path folder = directory / "states";
  if (!fs::exists(folder)) return;
  std::set<std::string> listed;
  for (const json& state : manifest.at("states")) listed.insert(state.at("file"));
  for (const std::string& name : contents(folder)) {
    if (!listed.contains("states/" + name)) remove_file(folder / name);
  }
  if (listed.empty()) {
    std::error_code ignored;  // files of the user stay
    fs::remove(folder, ignored);
  }
}

}  // namespace quip

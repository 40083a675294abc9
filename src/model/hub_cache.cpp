#include "quip/model/hub_cache.hpp"

#include <algorithm>
#include <cstdlib>

#include "io/files.hpp"
#include <fmt/format.h>

#include "quip/core/name_pattern.hpp"

namespace quip {
namespace {

namespace fs = std::filesystem;

/// Returns a variable's value; empty if it is not set.
fs::path variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? fs::path() : fs::path(value);
}

}  // namespace

bool is_hub_name(const std::string& name) {
  return NamePattern(R"(^[\w-][\w.-]*/[\w.-]+$)", "--model").matches(name);
}

fs::path hub_cache() {
  if (const fs::path cache = variable("HF_HUB_CACHE"); !cache.empty()) return cache;
  if (const fs::path home = variable("HF_HOME"); !home.empty()) return home / "hub";
  const fs::path base = variable("XDG_CACHE_HOME");
  return (base.empty() ? variable("HOME") / ".cache" : base) / "huggingface" / "hub";
}

fs::path find_model_directory(const std::string& name) {
  if (fs::exists(name) || !is_hub_name(name)) return name;
  const std::size_t slash = name.find('/');
  const fs::path folder =
      hub_cache() / fmt::format("models--{}--{}", name.substr(0, slash), name.substr(slash + 1));
  const fs::path main_branch = folder / "refs" / "main";
  if (!fs::is_regular_file(main_branch)) return name;
  std::string revision = read_text(main_branch);
  std::erase_if(revision, [](char c) { return c == '\n' || c == '\r'; });
  const fs::path snapshot = folder / "snapshots" / revision;
  return fs::is_directory(snapshot) ? snapshot : fs::path(name);
}

}  // namespace quip

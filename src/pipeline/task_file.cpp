#include <fstream>
#include <string>

#include "quip/core/error.hpp"
#include "quip/io/json.hpp"
#include "quip/pipeline/tasks.hpp"

namespace quip {
namespace {

using nlohmann::json;
using Ids = std::vector<std::int32_t>;

/// Reads ids, not empty: a score needs a token to predict, and one to predict it from.
Ids ids_of(const json& value, const std::string& where, const char* field) {
  if (!value.is_array() || value.empty()) {
    fail("{}: \"{}\" must be a list of token ids that is not empty", where, field);
  }
  Ids ids;
  for (const json& id : value) {
    if (!id.is_number_integer() || id < 0 || id > INT32_MAX) {
      fail("{}: \"{}\" holds {}, which is not a token id", where, field, shown(id));
    }
    ids.push_back(id.get<std::int32_t>());
  }
  return ids;
}

const json& field_of(const json& line, const char* name, const std::string& where) {
  const auto found = line.find(name);
  if (found == line.end()) fail("{}: has no \"{}\"", where, name);
  return *found;
}

void read_choices(const json& line, const std::string& where, TaskItem& item) {
  const json& choices = line.at("choices");
  if (!choices.is_array() || choices.size() < 2) {
    fail("{}: \"choices\" must list at least two continuations", where);
  }
  for (const json& choice : choices) item.continuations.push_back(ids_of(choice, where, "choices"));
  const json& lengths = field_of(line, "lengths", where);
  if (!lengths.is_array() || lengths.size() != choices.size()) {
    fail("{}: \"lengths\" must give the bytes of each of the {} choices", where, choices.size());
  }
  for (const json& length : lengths) {
    if (!length.is_number() || !(length.get<double>() > 0)) {
      fail("{}: \"lengths\" holds {}, which is not a positive number", where, shown(length));
    }
    item.lengths.push_back(length.get<double>());
  }
  const json& answer = field_of(line, "answer", where);
  if (!answer.is_number_integer() || answer < 0 || answer >= choices.size()) {
    fail("{}: \"answer\" must be a number from 0 to {}", where, choices.size() - 1);
  }
  item.answer = answer.get<index_t>();
}

TaskItem parse_item(const std::string& text, const std::string& where, index_t number) {
  const json line = parse_json(text, where);
  if (!line.is_object()) {
    fail("{}: not a JSON object; jobs/convert_tasks.py makes such files", where);
  }
  TaskItem item;
  item.id = line.value("id", json(number));
  item.context = ids_of(field_of(line, "context", where), where, "context");
  if (line.contains("choices") == line.contains("target")) {
    fail("{}: wants either \"choices\" or \"target\"", where);
  }
  if (line.contains("choices")) {
    read_choices(line, where, item);
  } else {
    item.continuations.push_back(ids_of(line.at("target"), where, "target"));
  }
  return item;
}

}  // namespace

std::vector<TaskItem> read_tasks(const std::filesystem::path& file, index_t count) {
  std::ifstream stream(file);
  if (!stream) fail("cannot open {}", file.string());
  std::vector<TaskItem> items;
  std::string text;
  for (index_t number = 1; std::getline(stream, text); ++number) {
    if (text.find_first_not_of(" \t\r") == std::string::npos) continue;
    items.push_back(parse_item(text, fmt::format("{}:{}", file.string(), number), number));
    if (static_cast<index_t>(items.size()) == count) return items;
  }
  if (stream.bad()) fail("cannot read {}", file.string());
  if (items.empty()) fail("{}: holds no items", file.string());
  if (count > 0) fail("{}: has {} items, --items asks for {}", file.string(), items.size(), count);
  return items;
}

}  // namespace quip

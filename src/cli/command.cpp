#include "command.hpp"

#include <algorithm>
#include <fstream>
#include <sstream>
#include <utility>

namespace quip::cli {

po::typed_value<std::string>* value_of(const std::string& option, const char* value_name,
                                       const std::function<void(const std::string&)>& take) {
  const auto named = [option, take](const std::string& text) {
    try {
      take(text);
    } catch (const Error& error) {
      fail("--{} {}: {}", option, text, error.what());
    }
  };
  return po::value<std::string>()->value_name(value_name)->notifier(named);
}

Command::Command(std::string name, std::string summary)
    : options_("Options", 100, 50), name_(std::move(name)), summary_(std::move(summary)) {
  options_.add_options()("help,h", "show this help");
}

std::string Command::help() const {
  std::ostringstream out;
  out << (parallel() ? "usage: [mpirun -n P] quip " : "usage: quip ") << name_ << " [options]\n\n"
      << summary_ << "\n\n"
      << options_;
  return out.str();
}

bool Command::given(const std::string& option) const {
  return values_.count(option) > 0 && !values_[option].defaulted();
}

double Command::stall_timeout() const {
  if (values_.count(stall_timeout_option) == 0) return default_stall_timeout;
  return parse_number<double>(values_[stall_timeout_option].as<std::string>());
}

void Command::read_config_file() {
  const auto file = values_["config"].as<std::string>();
  std::ifstream stream(file);
  if (!stream) throw UsageError(fmt::format("--config: cannot open {}", file));
  try {
    const po::parsed_options parsed = po::parse_config_file(stream, options_);
    po::store(parsed, values_);
    remember(parsed);
  } catch (const po::error& error) {
    throw UsageError(fmt::format("{}: {}", file, error.what()));
  }
}

void Command::remember(const po::parsed_options& parsed) {
  const std::size_t typed = parsed_.size();
  for (const po::option& option : parsed.options) {
    const auto end = parsed_.begin() + static_cast<std::ptrdiff_t>(typed);
    const bool repeated = std::any_of(parsed_.begin(), end, [&](const po::option& other) {
      return other.string_key == option.string_key;
    });
    if (!repeated || options_.find(option.string_key, false).semantic()->is_composing()) {
      parsed_.push_back(option);
    }
  }
}

std::vector<std::string> Command::given_again(const po::options_description& wanted) const {
  std::vector<std::string> arguments;
  for (const po::option& option : parsed_) {
    const po::option_description* known = wanted.find_nothrow(option.string_key, false);
    if (known == nullptr) continue;
    const bool flag = known->semantic()->max_tokens() == 0;
    if (flag && !values_[option.string_key].as<bool>()) continue;
    arguments.push_back("--" + option.string_key);
    if (!flag) arguments.insert(arguments.end(), option.value.begin(), option.value.end());
  }
  return arguments;
}

bool Command::parse(const std::vector<std::string>& arguments) {
  if (std::any_of(arguments.begin(), arguments.end(),
                  [](const std::string& a) { return a == "--help" || a == "-h"; })) {
    return false;
  }
  try {
    const po::parsed_options parsed =
        po::command_line_parser(arguments).options(options_).positional(positional_).run();
    po::store(parsed, values_);
    remember(parsed);
    if (values_.count("config") > 0) read_config_file();
    po::notify(values_);
    check();
  } catch (const po::error& error) {
    throw UsageError(fmt::format("{} (see quip {} --help)", error.what(), name_));
  } catch (const UsageError&) {
    throw;
  } catch (const Error& error) {
    throw UsageError(error.what());
  }
  return true;
}

}  // namespace quip::cli

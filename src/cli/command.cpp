#include "command.hpp"

#include <algorithm>
#include <fstream>
#include <sstream>
#include <utility>

namespace quip::cli {

namespace po = boost::program_options;

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
  return values_[stall_timeout_option].as<double>();
}

void Command::read_config_file() {
  const auto file = values_["config"].as<std::string>();
  std::ifstream stream(file);
  if (!stream) throw UsageError(fmt::format("--config: cannot open {}", file));
  try {
    po::store(po::parse_config_file(stream, options_), values_);
  } catch (const po::error& error) {
    throw UsageError(fmt::format("{}: {}", file, error.what()));
  }
}

bool Command::parse(const std::vector<std::string>& arguments) {
  if (std::any_of(arguments.begin(), arguments.end(),
                  [](const std::string& a) { return a == "--help" || a == "-h"; })) {
    return false;
  }
  try {
    po::store(po::command_line_parser(arguments).options(options_).positional(positional_).run(),
              values_);
    if (values_.count("config") > 0) read_config_file();
    po::notify(values_);
  } catch (const po::error& error) {
    throw UsageError(fmt::format("{} (see quip {} --help)", error.what(), name_));
  }
  try {
    check();
  } catch (const UsageError&) {
    throw;
  } catch (const Error& error) {
    throw UsageError(error.what());
  }
  return true;
}

}  // namespace quip::cli

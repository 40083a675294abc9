#include "quip/store/packed_writer.hpp"

namespace quip {

nlohmann::json to_json(const StoredLayer& layer) {
  nlohmann::json out = {{"name", layer.name},
                        {"rows", layer.layer.rows},
                        {"cols", layer.layer.cols},
                        {"bits", layer.layer.bits},
                        {"method", layer.method},
                        {"rho_rounds", layer.statistics.rho_rounds},
                        {"stored_bytes", stored_bytes(layer.layer)}};
  visit_statistics([&](const char* name, const auto& value) { out[name] = value; },
                   layer.statistics);
  return out;
}

}  // namespace quip

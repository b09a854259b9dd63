// The contract inside a model file, as polypstream.contract reads it in Python.
#pragma once

#include <string>

namespace polypstream {

struct Contract {
    std::string name, version;
    int width = 0, height = 0;
    double threshold = 0, min_peak = 0;
    bool crops_to_content = false;
};

constexpr const char* contract_key = "polypstream.contract";
constexpr double min_area_share = 0.0005;

// Raises ModelError for text that is no contract of this package.
Contract contract_from(const std::string& json);

}  // namespace polypstream

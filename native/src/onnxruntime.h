// A model in ONNX Runtime, whose shared library is loaded when the model is opened: nothing of it is needed to build.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "contract.h"

namespace polypstream {

class Session {
  public:
    // Raises ModelError for a file that is no model of this package, BackendError where ONNX Runtime does not load.
    Session(const std::string& model, const std::string& library, int threads);
    ~Session();
    const Contract& contract() const;
    // Probability (height, width) of uint8 RGB (height, width, 3). Raises BackendError.
    std::vector<float> run(const std::uint8_t* rgb);

  private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace polypstream

// What the C++ and the CUDA compiler see alike: the annotation of shared functions, and the package's errors.
#pragma once

#include <stdexcept>
#include <string>

#if defined(__CUDACC__)
#define POLYPSTREAM_SHARED __host__ __device__ inline
#else
#define POLYPSTREAM_SHARED inline
#endif

namespace polypstream {

// An argument is out of range: `polypstream.errors.ConfigError` in Python.
struct ConfigError : std::invalid_argument {
    using std::invalid_argument::invalid_argument;
};

// A model file is missing, damaged or of another kind: `polypstream.errors.ModelError` in Python.
struct ModelError : std::invalid_argument {
    using std::invalid_argument::invalid_argument;
};

// A runtime or a device fails: `polypstream.errors.BackendError` in Python.
struct BackendError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

template <typename T>
POLYPSTREAM_SHARED T least(T a, T b) {
    return a < b ? a : b;
}

template <typename T>
POLYPSTREAM_SHARED T greatest(T a, T b) {
    return a > b ? a : b;
}

template <typename T>
POLYPSTREAM_SHARED T limited(T value, T low, T high) {
    return value < low ? low : value > high ? high : value;
}

}  // namespace polypstream

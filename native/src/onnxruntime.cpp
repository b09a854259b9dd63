#include "onnxruntime.h"

#include <dlfcn.h>

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "platform.h"

namespace polypstream {
namespace {

// ONNX Runtime's C API is a table of functions that only ever grows at its end, so the place of each is fixed. These are
// the ones in use, by their place in version 11 of the API (ONNX Runtime 1.11, 2022) and all later ones.
constexpr std::uint32_t api_version = 11;
enum Function : std::size_t {
    get_error_message = 2,
    create_env = 3,
    create_session = 7,
    run_session = 9,
    create_session_options = 10,
    set_session_log_severity = 22,
    set_intra_op_threads = 24,
    session_get_input_count = 30,
    session_get_output_count = 31,
    session_get_input_name = 36,
    session_get_output_name = 37,
    create_tensor_with_data = 49,
    get_tensor_mutable_data = 51,
    get_tensor_element_type = 60,
    get_dimensions_count = 61,
    get_dimensions = 62,
    get_tensor_type_and_shape = 65,
    create_cpu_memory_info = 69,
    allocator_free = 76,
    get_default_allocator = 78,
    release_env = 92,
    release_status = 93,
    release_memory_info = 94,
    release_session = 95,
    release_value = 96,
    release_shape = 99,
    release_session_options = 100,
    session_get_metadata = 111,
    lookup_metadata = 116,
    release_metadata = 118,
};
constexpr int log_fatal = 4, element_float = 1, element_uint8 = 2, arena = 1, memory_default = 0;

using Handle = void*;  // of any of ONNX Runtime's classes
using Status = void*;

struct ApiBase {
    const void* const* (*get_api)(std::uint32_t version);
    const char* (*get_version)();
};

class Api {
  public:
    explicit Api(const std::string& library) {
        std::vector<std::string> names = {library};
        if (library.empty()) names = {"libonnxruntime.so.1", "libonnxruntime.so"};
        std::string problem;
        for (const std::string& name : names) {
            library_ = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
            if (library_) break;
            if (problem.empty()) problem = dlerror();
        }
        if (!library_) throw BackendError("ONNX Runtime does not load (" + problem + "); give the path of libonnxruntime.so");
        const auto base_of = reinterpret_cast<const ApiBase* (*)()>(dlsym(library_, "OrtGetApiBase"));
        table_ = base_of ? base_of()->get_api(api_version) : nullptr;
        if (!table_) {
            dlclose(library_);
            throw BackendError(names[0] + " is no ONNX Runtime of at least version 1.11; install a newer one");
        }
    }
    // The library stays loaded: its threads may outlive the last session.

    template <typename... Parameters>
    Status call(Function function, Parameters... parameters) const {
        return reinterpret_cast<Status (*)(Parameters...)>(const_cast<void*>(table_[function]))(parameters...);
    }
    void release(Function function, Handle handle) const {
        if (handle) reinterpret_cast<void (*)(Handle)>(const_cast<void*>(table_[function]))(handle);
    }
    // The text of a status, which is released; empty for success.
    std::string problem_of(Status status) const {
        if (!status) return {};
        const auto message_of = reinterpret_cast<const char* (*)(Status)>(const_cast<void*>(table_[get_error_message]));
        std::string text = message_of(status);
        release(release_status, status);
        return text.substr(0, text.find('\n'));
    }

  private:
    void* library_ = nullptr;
    const void* const* table_ = nullptr;
};

// A handle with the function that releases it.
class Owned {
  public:
    Owned(const Api& api, Function release) : api_(api), release_(release) {}
    ~Owned() { api_.release(release_, handle_); }
    Owned(const Owned&) = delete;
    Owned& operator=(const Owned&) = delete;
    Handle get() const { return handle_; }
    Handle* out() { return &handle_; }

  private:
    const Api& api_;
    Function release_;
    Handle handle_ = nullptr;
};

}  // namespace

struct Session::State {
    State(const std::string& model, const std::string& library, int threads)
        : api(library), env(api, release_env), session(api, release_session), memory(api, release_memory_info) {
        backend(api.call(create_env, log_fatal, static_cast<const char*>("polypstream"), env.out()));
        Owned options(api, release_session_options);
        backend(api.call(create_session_options, options.out()));
        backend(api.call(set_session_log_severity, options.get(), log_fatal));
        if (threads > 0) backend(api.call(set_intra_op_threads, options.get(), threads));
        const std::string problem = api.problem_of(
            api.call(create_session, env.get(), model.c_str(), static_cast<const void*>(options.get()), session.out())
        );
        if (!problem.empty()) throw ModelError(model + " cannot be loaded as an ONNX model (" + problem + "); export it again");
        backend(api.call(create_cpu_memory_info, arena, memory_default, memory.out()));
        backend(api.call(get_default_allocator, &allocator));
        try {
            contract = contract_from(metadata());
        } catch (const ModelError& error) {
            throw ModelError(model + ": " + error.what());
        }
        std::size_t inputs = 0, outputs = 0;
        backend(api.call(session_get_input_count, session.get(), &inputs));
        backend(api.call(session_get_output_count, session.get(), &outputs));
        if (inputs != 1 || outputs != 1) throw ModelError(model + " has " + std::to_string(inputs) + " inputs and " + std::to_string(outputs) + " outputs, not one each; export it again");
        input = name_of(session_get_input_name);
        output = name_of(session_get_output_name);
    }

    void backend(Status status) const {
        const std::string problem = api.problem_of(status);
        if (!problem.empty()) throw BackendError("ONNX Runtime failed (" + problem + "); free memory, or install another version");
    }

    std::string taken(char* text) const {
        std::string copy = text ? text : "";
        if (text) api.problem_of(api.call(allocator_free, allocator, static_cast<void*>(text)));
        return copy;
    }

    std::string metadata() const {
        Owned metadata(api, release_metadata);
        backend(api.call(session_get_metadata, session.get(), metadata.out()));
        char* text = nullptr;
        backend(api.call(lookup_metadata, metadata.get(), allocator, contract_key, &text));
        if (!text) throw ModelError("the model carries no polypstream contract; make one with: polypstream export");
        return taken(text);
    }

    std::string name_of(Function function) const {
        char* text = nullptr;
        backend(api.call(function, session.get(), std::size_t(0), allocator, &text));
        return taken(text);
    }

    Api api;
    Owned env, session, memory;
    Handle allocator = nullptr;
    Contract contract;
    std::string input, output;
};

Session::Session(const std::string& model, const std::string& library, int threads)
    : state_(std::make_unique<State>(model, library, threads)) {}

Session::~Session() = default;

const Contract& Session::contract() const { return state_->contract; }

std::vector<float> Session::run(const std::uint8_t* rgb) {
    const State& s = *state_;
    const Contract& contract = s.contract;
    const std::size_t pixels = static_cast<std::size_t>(contract.width) * contract.height;
    const std::int64_t shape[4] = {1, contract.height, contract.width, 3};
    Owned input(s.api, release_value), output(s.api, release_value), actual(s.api, release_shape);
    s.backend(s.api.call(
        create_tensor_with_data, s.memory.get(), const_cast<void*>(static_cast<const void*>(rgb)), 3 * pixels,
        static_cast<const std::int64_t*>(shape), std::size_t(4), element_uint8, input.out()
    ));
    const char* input_name = s.input.c_str();
    const char* output_name = s.output.c_str();
    const Handle given = input.get();
    s.backend(s.api.call(
        run_session, s.session.get(), static_cast<const void*>(nullptr), &input_name, &given, std::size_t(1), &output_name,
        std::size_t(1), output.out()
    ));
    int type = 0;
    std::size_t rank = 0;
    s.backend(s.api.call(get_tensor_type_and_shape, output.get(), actual.out()));
    s.backend(s.api.call(get_tensor_element_type, actual.get(), &type));
    s.backend(s.api.call(get_dimensions_count, actual.get(), &rank));
    std::vector<std::int64_t> sides(rank);
    s.backend(s.api.call(get_dimensions, actual.get(), sides.data(), rank));
    if (type != element_float || sides != std::vector<std::int64_t>{1, contract.height, contract.width, 1}) {
        throw ModelError("the model does not return float32 probabilities of its contract's size; export it again");
    }
    void* data = nullptr;
    s.backend(s.api.call(get_tensor_mutable_data, output.get(), &data));
    std::vector<float> map(static_cast<const float*>(data), static_cast<const float*>(data) + pixels);
    for (float& value : map) {
        if (!(value >= -1e-6f && value <= 1 + 1e-6f)) {
            throw BackendError(
                "the network returned " + std::to_string(value) + " where a probability belongs; the model is damaged or "
                "its precision too low for it: try the fp32 model"
            );
        }
        value = std::clamp(value, 0.0f, 1.0f);
    }
    return map;
}

}  // namespace polypstream

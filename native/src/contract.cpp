#include "contract.h"

#include <cstdlib>
#include <map>

#include "platform.h"

namespace polypstream {
namespace {

[[noreturn]] void damaged(const std::string& why) {
    throw ModelError("the model's contract " + why + "; export it again");
}

// The strings and numbers of a JSON object; arrays and objects within it are passed over.
class Reader {
  public:
    explicit Reader(const std::string& text) : text_(text) {}

    std::map<std::string, std::string> object() {
        std::map<std::string, std::string> values;
        take('{');
        if (peek() == '}') return values;
        while (true) {
            const std::string name = string();
            take(':');
            if (peek() == '"') {
                values[name] = string();
            } else if (peek() == '{' || peek() == '[') {
                pass(0);
            } else {
                values[name] = word();
            }
            if (peek() != ',') break;
            ++at_;
        }
        take('}');
        return values;
    }

  private:
    char peek() {
        while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\t' || text_[at_] == '\r')) ++at_;
        if (at_ >= text_.size()) damaged("is not JSON");
        return text_[at_];
    }

    void take(char wanted) {
        if (peek() != wanted) damaged("is not JSON");
        ++at_;
    }

    std::string string() {
        take('"');
        std::string out;
        while (at_ < text_.size() && text_[at_] != '"') {
            if (text_[at_] == '\\' && at_ + 1 < text_.size()) ++at_;  // names that matter here have no escapes
            out += text_[at_++];
        }
        take('"');
        return out;
    }

    std::string word() {
        const std::size_t from = at_;
        while (at_ < text_.size() && std::string(",}] \n\t\r").find(text_[at_]) == std::string::npos) ++at_;
        if (at_ == from) damaged("is not JSON");
        return text_.substr(from, at_ - from);
    }

    void pass(int depth) {
        if (depth > 32) damaged("is nested too deeply");
        const char open = peek(), close = open == '{' ? '}' : ']';
        ++at_;
        while (peek() != close) {
            if (peek() == '"') {
                string();
            } else if (peek() == '{' || peek() == '[') {
                pass(depth + 1);
            } else if (peek() == ',' || peek() == ':') {
                ++at_;
            } else {
                word();
            }
        }
        ++at_;
    }

    const std::string& text_;
    std::size_t at_ = 0;
};

}  // namespace

Contract contract_from(const std::string& json) {
    const std::map<std::string, std::string> values = Reader(json).object();
    const auto text = [&](const char* name) {
        const auto found = values.find(name);
        if (found == values.end()) damaged(std::string("has no ") + name);
        return found->second;
    };
    const auto number = [&](const char* name) {
        const std::string word = text(name);
        char* end = nullptr;
        const double value = std::strtod(word.c_str(), &end);
        if (end == word.c_str() || *end != '\0') damaged(std::string("has the ") + name + " " + word);
        return value;
    };
    Contract contract;
    contract.name = text("name");
    contract.version = text("version");
    contract.width = static_cast<int>(number("width"));
    contract.height = static_cast<int>(number("height"));
    contract.threshold = number("threshold");
    const double format = number("format");
    if (format == 1) {
        // Released before contracts knew of crops; polypstream.contract says the same.
        contract.crops_to_content = contract.name == "resunetpp-r50" && contract.version == "0.5.0";
    } else if (format == 2 || format == 3) {
        const std::string crop = text("crop");
        if (crop != "none" && crop != "content") {
            throw ModelError("the model takes images cropped by the rule " + crop + "; update polypstream");
        }
        contract.crops_to_content = crop == "content";
        if (format == 3) contract.min_peak = number("min_peak");
    } else {
        throw ModelError("the model's contract has the format " + text("format") + ", this software reads 1 to 3; update polypstream");
    }
    if (contract.width < 8 || contract.height < 8 || contract.width > 8192 || contract.height > 8192) {
        damaged("has an input of " + std::to_string(contract.width) + "x" + std::to_string(contract.height));
    }
    if (!(contract.threshold > 0 && contract.threshold < 1)) damaged("has the threshold " + text("threshold"));
    if (!(contract.min_peak >= 0 && contract.min_peak < 1)) damaged("has the min_peak " + text("min_peak"));
    return contract;
}

}  // namespace polypstream

// The endoscope's own picture within a frame, as polypstream.content and polypstream.realtime.inference.model_input find
// it in Python.
#pragma once

#include <cstdint>
#include <vector>

namespace polypstream {

// Content area of uint8 RGB (height, width, 3): a flag for each pixel; all of them where there is no such area.
std::vector<std::uint8_t> content_area(const std::uint8_t* rgb, int width, int height);

// Shares of the frame's height and width.
struct Edges {
    double top = 0, bottom = 1, left = 0, right = 1;
};

// The content area's bounding box over time: the first frame's, until another one has lasted.
class SteadyEdges {
  public:
    bool is_known() const { return is_known_; }
    const Edges& used() const { return used_; }
    void see(const std::uint8_t* rgb, int width, int height);
    void forget() { *this = SteadyEdges(); }

  private:
    bool is_known_ = false, has_other_ = false;
    Edges used_, other_;
    int lasted_ = 0;
};

}  // namespace polypstream

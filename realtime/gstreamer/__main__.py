"""Prints the environment for `gst-launch-1.0`: `eval "$(python -m polypstream.realtime.gstreamer)"`."""

from polypstream.realtime.gstreamer.environment import exports

if __name__ == "__main__":
    print(exports())

"""The GStreamer element `polypoverlay`: network, alarm logic and markers in any GStreamer pipeline."""

"""The GStreamer element `polypoverlay`: the same network, alarm logic and markers, inside anybody's pipeline."""

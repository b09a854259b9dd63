"""The GStreamer element `polypoverlay`: properties, buffers and messages. Loaded by GStreamer, not by this package.

The package is imported when the element starts, so that a missing PYTHONPATH is reported on the bus.
"""

import traceback
from time import monotonic
from typing import Any

import gi  # type: ignore[import-not-found, unused-ignore]

gi.require_version("Gst", "1.0")
gi.require_version("GstBase", "1.0")
gi.require_version("GstVideo", "1.0")
from gi.repository import GLib, GObject, Gst, GstBase, GstVideo  # type: ignore[import-not-found, unused-ignore]  # noqa: E402

Foreign = Any
"""A GStreamer object; its bindings are untyped."""

Gst.init(None)

_CAPS = Gst.Caps.from_string("video/x-raw,format={I420,NV12,BGR},width=[8,16384],height=[8,16384]")
_COLORSPACES = {
    GstVideo.VideoColorMatrix.FCC: 4,
    GstVideo.VideoColorMatrix.BT709: 1,
    GstVideo.VideoColorMatrix.BT601: 6,
    GstVideo.VideoColorMatrix.SMPTE240M: 7,
    GstVideo.VideoColorMatrix.BT2020: 9,
}
"""FFmpeg's `AVColorSpace` for GStreamer's matrices."""
_WHILE_PLAYING = GObject.ParamFlags.READWRITE | Gst.PARAM_MUTABLE_PLAYING
_WHEN_READY = GObject.ParamFlags.READWRITE | Gst.PARAM_MUTABLE_READY
_STRINGS = (
    ("model", "Path of an ONNX file; empty for the one in the package", _WHEN_READY, ""),
    ("backend", "Inference backend; auto uses the fastest", _WHEN_READY, "auto"),
    ("mode", "live: never delay the pipeline; every-frame: for files", _WHEN_READY, "live"),
    ("operating-point", "Operating point of the model, by name; empty for its first", _WHILE_PLAYING, ""),
)
_JUMPS = (Gst.EventType.FLUSH_STOP, Gst.EventType.SEGMENT, Gst.EventType.EOS)
"""Events after which frames do not continue previous ones."""
_FIXED = ("model", "backend", "mode")


class PolypOverlay(GstBase.BaseTransform):  # type: ignore[misc, unused-ignore]
    """Outlines polyps on raw video, in place; samples not covered by a marker stay bit-exact."""

    __gstmetadata__ = (
        "Polyp overlay",
        "Filter/Effect/Video",
        "Outlines polyps in colonoscopy video (research software, not a medical device)",
        "The authors of polypstream",
    )
    __gsttemplates__ = (
        Gst.PadTemplate.new("sink", Gst.PadDirection.SINK, Gst.PadPresence.ALWAYS, _CAPS),
        Gst.PadTemplate.new("src", Gst.PadDirection.SRC, Gst.PadPresence.ALWAYS, _CAPS),
    )
    __gproperties__ = {  # noqa: RUF012 - required by GObject
        **{name: (str, name, text, default, flags) for name, text, flags, default in _STRINGS},
        "threshold": (float, "threshold", "0 for the threshold of the operating point", 0, 0.99, 0, _WHILE_PLAYING),
        "outlines": (
            bool,
            "outlines",
            "Whether markers are drawn; messages are always posted",
            True,
            _WHILE_PLAYING,
        ),
    }

    def __init__(self) -> None:
        super().__init__()
        self.set_in_place(True)
        self._settings: dict[str, Any] = {name: default for name, _, _, default in _STRINGS}
        self._settings |= {"threshold": 0.0, "outlines": True}
        self._inference: Any = None
        self._status: Any = None
        self._is_broken = False

    def do_get_property(self, spec: Foreign) -> Foreign:
        """A property's value."""
        return self._settings[spec.name]

    def do_set_property(self, spec: Foreign, value: Foreign) -> None:
        """Change a property; changes while playing apply from the next frame on."""
        before, self._settings[spec.name] = self._settings[spec.name], value
        if spec.name == "outlines":
            self.set_passthrough(not value)
        elif self._inference is not None:
            try:
                self._apply_operating_point()
            except ValueError as error:
                self._settings[spec.name] = before
                self._post_problem(Gst.Message.new_warning, str(error))

    def do_start(self) -> bool:
        """Load the model, and start the thread that runs it."""
        try:
            from polypstream.errors import PolypstreamError
            from polypstream.realtime.gstreamer.inference import ElementInference, inference_config
            from polypstream.realtime.gstreamer.mapped import Layout, MappedPicture
            from polypstream.realtime.outlines.drawing import MarkerStyle
        except ImportError as error:
            fix = 'set the environment with: eval "$(python -m polypstream.realtime.gstreamer)"'
            self._post_problem(Gst.Message.new_error, f"polypstream cannot be imported here ({error}); {fix}")
            return False
        self._layout, self._mapped = Layout, MappedPicture
        self._style = MarkerStyle()
        self._status, self._is_broken = None, False
        try:
            self._inference = ElementInference(inference_config(**{name: self._settings[name] for name in _FIXED}))
            self._apply_operating_point()
        except PolypstreamError as error:
            self._inference = None
            self._post_problem(Gst.Message.new_error, str(error))
            return False
        self._inference.start()
        return True

    def do_stop(self) -> bool:
        """End the thread."""
        inference, self._inference = self._inference, None
        if inference is not None:
            inference.close()
        return True

    def do_set_caps(self, caps: Foreign, _: Foreign) -> bool:
        """Store the format of the following buffers."""
        self._info = GstVideo.VideoInfo.new_from_caps(caps)
        return True

    def do_sink_event(self, event: Foreign) -> bool:
        """Restart at a discontinuity, and end all tracks at the end of the stream."""
        if event.type in _JUMPS and self._inference is not None:
            self._inference.reset()
            self._post_events(self._inference.take_events())
        return bool(GstBase.BaseTransform.do_sink_event(self, event))

    def do_transform_ip(self, buffer: Foreign) -> Foreign:
        """Outline a frame; it is passed on even after an error."""
        try:
            self._outline(buffer)
        except Exception as error:  # noqa: BLE001 - an error must not stop the video
            if not self._is_broken:
                self._is_broken = True
                text = f"nothing is drawn: {error or type(error).__name__}"
                self._post_problem(Gst.Message.new_warning, text, traceback.format_exc())
        return Gst.FlowReturn.OK

    def _outline(self, buffer: Foreign) -> None:
        pts_s = None if buffer.pts == Gst.CLOCK_TIME_NONE else buffer.pts / Gst.SECOND
        draws = not self.is_passthrough()
        access = Gst.MapFlags.READ | (Gst.MapFlags.WRITE if draws else Gst.MapFlags(0))
        with buffer.map(access) as memory:
            picture = self._mapped(memory.data, self._layout_of(buffer))
            view = self._inference.process(picture, at_s=monotonic() if pts_s is None else pts_s, pts_s=pts_s)
            if draws:
                picture.draw(view.markers, self._style)
            del picture
        self._post_events(self._inference.take_events())
        if view.status != self._status:
            self._status = view.status
            self._post("polyp-status", {"light": view.status.light.value, "reason": view.status.reason})

    def _layout_of(self, buffer: Foreign) -> Foreign:
        info = self._info
        placed = GstVideo.buffer_get_video_meta(buffer) or info
        return self._layout(
            pixel_format=info.finfo.name,
            width=info.width,
            height=info.height,
            strides=tuple(placed.stride),
            offsets=tuple(placed.offset),
            colorspace=_COLORSPACES.get(info.colorimetry.matrix, 2),
            is_full_range=info.colorimetry.range == GstVideo.VideoColorRange(1),
        )

    def _apply_operating_point(self) -> None:
        point, threshold = self._settings["operating-point"], self._settings["threshold"]
        self._inference.set_operating_point(point or None, threshold or None)

    def _post_events(self, events: Foreign) -> None:
        """Post polyps that appeared or vanished, as `polyp-appeared` and `polyp-vanished`."""
        for event in events:
            left, top, width, height = event.details["box"]
            at_s = event.at if event.pts_s is None else event.pts_s
            fields = {
                "identity": event.details["identity"],
                "pts": GObject.Value(GObject.TYPE_UINT64, round(at_s * Gst.SECOND)),
                **{"x": left, "y": top, "width": width, "height": height},
                "mean-probability": event.details["mean_probability"],
            }
            if "duration_s" in event.details:
                fields["duration"] = GObject.Value(GObject.TYPE_UINT64, round(event.details["duration_s"] * Gst.SECOND))
            self._post(event.kind.value.replace("_", "-"), fields)

    def _post(self, name: str, fields: dict[str, Any]) -> None:
        structure = Gst.Structure.new_empty(name)
        for key, value in fields.items():
            structure.set_value(key, value)
        self.post_message(Gst.Message.new_element(self, structure))

    def _post_problem(self, kind: Foreign, text: str, details: str = "") -> None:
        """Put an error or a warning on the bus."""
        error = GLib.Error.new_literal(Gst.LibraryError.quark(), text, Gst.LibraryError.FAILED)
        self.post_message(kind(self, error, details))


GObject.type_register(PolypOverlay)
__gstelementfactory__ = ("polypoverlay", Gst.Rank.NONE, PolypOverlay)

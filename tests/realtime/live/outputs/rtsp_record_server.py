"""An RTSP server that receives one pushed stream and writes it to its standard output as MPEG-TS.

Run by the Python of Debian's python3-gst-1.0, not by ours. Argument: port. Says "ready" on its standard error when it
listens; ends with its input.
"""

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

Gst.init(None)
(port,) = sys.argv[1:]
server = GstRtspServer.RTSPServer(service=port, address="127.0.0.1")
factory = GstRtspServer.RTSPMediaFactory()
factory.set_transport_mode(GstRtspServer.RTSPTransportMode.RECORD)
factory.set_latency(0)
factory.set_launch("( rtph264depay name=depay0 ! h264parse ! mpegtsmux ! fdsink fd=1 sync=false )")
server.get_mount_points().add_factory("/push", factory)
server.attach(None)
loop = GLib.MainLoop()
GLib.io_add_watch(sys.stdin, GLib.IO_HUP, lambda *_: loop.quit())
print("ready", file=sys.stderr, flush=True)
loop.run()

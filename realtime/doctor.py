"""Checks what works on this machine: backends, models, video, live feeds, GStreamer, extras.

Each check tests the function itself (a backend runs the model, an encoder encodes) rather than whether packages are
installed, and gives the command that fixes a failure.
"""

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import TYPE_CHECKING, cast

from polypstream.errors import MissingExtraError, PolypstreamError, install_command
from polypstream.scheduling import ordinary_scheduling

if TYPE_CHECKING:
    from polypstream.realtime.live.sources.device import CaptureDevice

INSTRUCTIONS = {"avx2": "AVX2", "avx512f": "AVX-512", "avx512_vnni": "VNNI", "avx_vnni": "VNNI", "amx_bf16": "AMX"}
"""Flags in /proc/cpuinfo that make inference faster, and their usual names."""
EXTRAS = {
    "serve": "the page of polypstream live in a browser",
    "webrtc": "H.264 on the page of polypstream live",
    "metrics": "Prometheus metrics of polypstream live",
    "camera": "a virtual camera for OBS and meetings",
    "openvino": "the openvino backends",
    "rtx": "TensorRT-RTX: the tensorrt backend and polypstream build",
    "tensorrt": "TensorRT: the tensorrt backend and polypstream build",
    "triton": "models on a Triton server: --backend triton",
    "train": "polypstream train",
    "export": "polypstream export",
    "dicom": "DICOM video, --format dicom-seg",
    "cvat": "polypstream push cvat",
    "label-studio": "polypstream push label-studio; best in an environment of its own",
}
"""Purpose of each extra of the package."""
ENCODERS = ("libx264", "libx265", "ffv1", "libsvtav1", "libvpx-vp9", "h264_nvenc", "hevc_nvenc")
GST_PACKAGES = "gstreamer1.0-tools gstreamer1.0-plugins-base gstreamer1.0-python3-plugin-loader python3-gst-1.0"
GST_TIMEOUT_S = 30.0


@dataclass(frozen=True, kw_only=True)
class Check:
    """Result of one check."""

    group: str
    name: str
    works: bool
    detail: str
    """What was found, or the reason for the failure."""
    fix: str | None = None
    """Command or action that fixes a failure; None if there is nothing to do."""


def checks() -> Iterator[Check]:
    """Run all checks, in display order. Takes some seconds; failures do not raise."""
    yield _machine()
    yield _native()
    yield _gpu()
    yield from _backends()
    yield from _models()
    yield from _encoders()
    yield _display()
    yield from _capture_devices()
    yield _srt()
    yield _gstreamer()
    yield from _extras()


def _machine() -> Check:
    python = f"Python {platform.python_version()}"
    return Check(
        group="machine", name="processor", works=True, detail=f"{_processor()}, {os.cpu_count()} cores, {python}"
    )


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    name = re.search(r"^model name\s*: (.+)$", text, flags=re.MULTILINE)
    flags = re.search(r"^flags\s*: (.+)$", text, flags=re.MULTILINE)
    words = set(flags.group(1).split()) if flags else set()
    fast = dict.fromkeys(INSTRUCTIONS[word] for word in INSTRUCTIONS if word in words)
    return f"{name.group(1) if name else platform.machine()} ({', '.join(fast) or 'no vector extensions known here'})"


def _native() -> Check:
    from polypstream.realtime import native

    if not native.is_available():
        fix = "install a C++ compiler (apt-get install g++), then polypstream again; works without it, but slower"
        detail = f"turned off by {native.SWITCH}" if native.is_built() else "not built"
        return Check(group="machine", name="native module", works=False, detail=detail, fix=fix)
    kernels = "with CUDA kernels" if native.has_kernels() else "without CUDA kernels"
    return Check(group="machine", name="native module", works=True, detail=f"built {kernels}")


def _gpu() -> Check:
    from polypstream.realtime.cuda import find_device

    def found() -> str:
        device = find_device()
        return f"{device.name}, {device.compute_capability}, {device.memory_bytes / 2**30:.0f} GiB"

    return _tried("machine", "NVIDIA GPU", found)


def _backends() -> Iterator[Check]:
    """Open the package's model in each backend and run it once; TensorRT is only loaded, as a build takes minutes."""
    from polypstream.models import default_model
    from polypstream.realtime.inference.segmenter import BACKENDS, TRITON, time_per_image_ms

    def run(name: str) -> str:
        if name == "tensorrt":
            from polypstream.realtime.cuda import find_device
            from polypstream.realtime.inference.tensorrt.adapter import load_tensorrt

            return f"{load_tensorrt().product} on {find_device().name}"
        segmenter = BACKENDS[name](default_model(name), None)
        return f"{time_per_image_ms(segmenter):.0f} ms per frame"

    def client() -> str:
        try:
            from tritonclient import grpc  # noqa: F401
        except ImportError as error:
            raise MissingExtraError(f"the triton backend ({error})", "triton") from None
        return f"tritonclient {version('tritonclient')}; needs a server, named by --url"

    for name in BACKENDS:
        yield _tried("backends", name, lambda name=name: run(name))  # type: ignore[misc]
    yield _tried("backends", TRITON, client)


def _models() -> Iterator[Check]:
    from polypstream.contract import ModelContract
    from polypstream.models import FP16, INT8, PLAIN, shipped_model

    def described(name: str) -> str:
        import onnxruntime

        session = onnxruntime.InferenceSession(str(shipped_model(name)), providers=["CPUExecutionProvider"])
        contract = ModelContract.from_metadata(session.get_modelmeta().custom_metadata_map)
        return f"{contract.name} {contract.version}, {contract.precision}, {contract.width}x{contract.height}"

    for name in (PLAIN, FP16, INT8):
        yield _tried("models", name, lambda name=name: described(name))  # type: ignore[misc]


def _encoders() -> Iterator[Check]:
    for name in ENCODERS:
        yield _tried("video encoders", name, lambda name=name: _encoded(name))  # type: ignore[misc]


def _encoded(name: str) -> str:
    """Encode one gray frame."""
    os.environ.setdefault("SVT_LOG", "0")  # SVT-AV1 and x265 print their settings otherwise
    import av
    import numpy as np
    from av.video.codeccontext import VideoCodecContext

    if name not in av.codecs_available:
        raise OSError(f"not in this build of PyAV ({av.__version__})")
    context = cast(VideoCodecContext, av.CodecContext.create(name, "w"))
    context.width, context.height, context.pix_fmt = 640, 480, "yuv420p"
    context.framerate, context.time_base = Fraction(25), Fraction(1, 25)
    if name == "libx265":
        context.options = {"x265-params": "log-level=none"}
    frame = av.VideoFrame.from_ndarray(np.full((720, 640), 128, dtype=np.uint8), format="yuv420p")
    try:
        with ordinary_scheduling():
            packets = [*context.encode(frame), *context.encode(None)]
    except av.FFmpegError as error:
        needs = " without an NVIDIA GPU and its driver" if name.endswith("_nvenc") else ""
        raise OSError(f"does not start{needs} ({error.strerror})") from None
    return f"PyAV {av.__version__}" if packets else "no output"


def _display() -> Check:
    from polypstream.realtime.live.viewers.window import check_display

    def found() -> str:
        check_display()
        return os.environ.get("WAYLAND_DISPLAY") or os.environ.get("DISPLAY") or "a window can be opened"

    return _tried("live feeds", "display", found)


def _capture_devices() -> Iterator[Check]:
    from polypstream.realtime.live.sources.device import capture_devices

    devices = capture_devices()
    if not devices:
        yield Check(group="live feeds", name="capture devices", works=False, detail="none at /dev/video*")
    for device in devices:
        yield _device(device)


def _device(device: "CaptureDevice") -> Check:
    """Check a capture device; one that cannot be opened usually lacks permissions."""
    allowed = os.access(device.path, os.R_OK | os.W_OK)
    return Check(
        group="live feeds",
        name=device.path,
        works=not device.problem,
        detail=": ".join(filter(None, (device.name, device.problem or ", ".join(device.formats)))),
        fix=None if allowed else "sudo usermod -aG video $USER, then log in again",
    )


def _srt() -> Check:
    from polypstream.realtime.live.sources.srt import PACKAGES, is_available

    works = is_available()
    detail = "through GStreamer" if works else "GStreamer's srtsrc is not installed"
    fix = None if works else f"sudo apt-get install {PACKAGES}"
    return Check(group="live feeds", name="srt:// addresses", works=works, detail=detail, fix=fix)


def _gstreamer() -> Check:
    from polypstream.realtime.gstreamer.environment import environment

    def outcome(*, works: bool, detail: str, fix: str | None = None) -> Check:
        return Check(group="live feeds", name="GStreamer polypoverlay", works=works, detail=detail, fix=fix)

    inspect = shutil.which("gst-inspect-1.0")
    if inspect is None:
        return outcome(works=False, detail="GStreamer is not installed", fix=f"sudo apt-get install {GST_PACKAGES}")
    try:
        found = subprocess.run(
            [inspect, "polypoverlay"],
            capture_output=True,
            text=True,
            check=False,
            timeout=GST_TIMEOUT_S,
            env={**os.environ, **environment()},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return outcome(works=False, detail=f"gst-inspect-1.0 does not answer ({type(error).__name__})")
    if found.returncode == 0:
        return outcome(works=True, detail='found, after eval "$(python -m polypstream.realtime.gstreamer)"')
    loader = subprocess.run([inspect, "python"], capture_output=True, check=False)
    if loader.returncode != 0:
        detail = "GStreamer's loader for Python elements is missing"
        return outcome(works=False, detail=detail, fix=f"sudo apt-get install {GST_PACKAGES}")
    return outcome(
        works=False,
        detail="GStreamer does not load the element; its Python must have the version of this one",
        fix="rm ~/.cache/gstreamer-1.0/registry.*, then run polypstream doctor again",
    )


def _extras() -> Iterator[Check]:
    for extra, purpose in EXTRAS.items():
        missing = [name for name in requirements_of(extra) if not _installed(name)]
        yield Check(
            group="extras",
            name=extra,
            works=not missing,
            detail=purpose if not missing else f"{purpose}; missing: {', '.join(missing)}",
            fix=None if not missing else install_command(extra),
        )


def requirements_of(extra: str) -> list[str]:
    """Names of the distributions that an extra requires, including those of nested extras."""
    names: list[str] = []
    for requirement in distribution("polypstream").requires or []:
        needed, _, marker = requirement.partition(";")
        if not re.search(rf"""extra\s*==\s*['"]{re.escape(extra)}['"]""", marker):
            continue
        if nested := re.match(r"polypstream\[(.+?)\]", needed):
            for inner in nested.group(1).split(","):
                names += requirements_of(inner.strip())
        elif name := re.match(r"[A-Za-z0-9._-]+", needed):
            names.append(name.group(0))
    return names


def _installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def _tried(group: str, name: str, attempt: Callable[[], str]) -> Check:
    """Result of an attempt; errors of this package state the fix after their first semicolon."""
    try:
        return Check(group=group, name=name, works=True, detail=attempt())
    except PolypstreamError as error:
        detail, _, fix = str(error).partition("; ")
        return Check(group=group, name=name, works=False, detail=detail, fix=fix or None)
    except Exception as error:  # noqa: BLE001 - native libraries fail to load or start in many ways
        reason = str(error).strip().splitlines()
        return Check(group=group, name=name, works=False, detail=reason[0] if reason else type(error).__name__)

"""SRT from a real sender, through GStreamer; without it, an error that says what to install."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from polypstream.errors import ConfigError
from polypstream.realtime.live.sources import SourceConfig, source_from_address
from polypstream.realtime.live.sources import srt as srt_module
from polypstream.realtime.live.sources.source import ConnectionStatus
from tests.realtime.live.feeds import Camera, Coding, Playback, free_port, runs, wait_until

pytestmark = pytest.mark.realtime
PATIENT = SourceConfig(late_s=30, watchdog_s=20, first_retry_s=0.1, longest_retry_s=0.2)
NEEDED = "needs Debian's gstreamer1.0-plugins-bad and python3-gst-1.0"
needs_srt = pytest.mark.skipif(not srt_module.is_available(), reason=NEEDED)


class SrtCamera(Camera):
    """Listens for SRT receivers, by GStreamer."""

    def __init__(self, port: int, query: str = "") -> None:
        address = f"srt://127.0.0.1:{port}?mode=listener{query}"
        pipeline = ["fdsrc", "fd=0", "!", "srtsink", f"uri={address}", "wait-for-connection=false"]
        self._process = subprocess.Popen(
            ["gst-launch-1.0", "-q", *pipeline],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )
        assert self._process.stdin is not None
        super().__init__(self._process.stdin.write, Coding())  # type: ignore[arg-type]

    def __exit__(self, *reason: Any) -> None:
        super().__exit__(*reason)
        self._process.kill()
        self._process.communicate()


def processes() -> list[str]:
    """Command lines of the child processes that read SRT."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = path.read_text()
        except OSError:
            continue
        if "srtsrc" in text:
            found.append(text)
    return found


@needs_srt
def test_srt_arrives_is_lost_with_its_sender_and_comes_back() -> None:
    port = free_port()
    source = source_from_address(f"srt://127.0.0.1:{port}?passphrase=t0psecret9", PATIENT)
    with Playback(source) as viewing:
        with SrtCamera(port, "&passphrase=t0psecret9"):
            wait_until(lambda: len(viewing.frames) >= 60, within_s=40)
            assert processes()
            assert not any("t0psecret" in line for line in processes())
        wait_until(lambda: source.state.status is ConnectionStatus.LOST, within_s=40)
        seen = len(viewing.frames)
        with SrtCamera(port, "&passphrase=t0psecret9"):
            wait_until(lambda: len(viewing.frames) >= seen + 10, within_s=40)
    assert max(runs(viewing.numbers[:seen], 50)) == 1
    wait_until(lambda: not processes())


@needs_srt
def test_a_wrong_passphrase_and_a_missing_sender_are_reported() -> None:
    port = free_port()
    source = source_from_address(f"srt://127.0.0.1:{port}?passphrase=wr0ngsecret", PATIENT)
    with SrtCamera(port, "&passphrase=t0psecret9"), Playback(source):
        wait_until(lambda: source.state.reason, within_s=40)
        assert "secret" not in source.state.reason
        assert source.state.reason in {
            "the passphrase is wrong",
            "the sender rejected the connection",
            "the SRT connection failed",
        }


def test_without_gstreamer_srt_is_refused_with_two_alternatives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(srt_module, "PYTHON", Path("/nowhere/python3"))
    srt_module.is_available.cache_clear()
    try:
        with pytest.raises(ConfigError, match=r"apt-get install .*srt-live-transmit .*udp://@:5000"):
            source_from_address("srt://127.0.0.1:9")
    finally:
        srt_module.is_available.cache_clear()

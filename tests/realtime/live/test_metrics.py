"""What a scraper reads is what the session did, and nothing is left when it ends."""

import socket
import sys
import threading
from time import monotonic
from urllib.request import urlopen

import pytest

from polypstream.errors import MissingExtraError, SinkError
from polypstream.realtime.live.metrics import MetricsConfig, MetricsViewer
from polypstream.realtime.live.shown import Light, Status
from polypstream.realtime.live.viewing import Gauges
from tests.live_frames import live_frame, marker

pytest.importorskip("prometheus_client", reason="needs the extra [metrics]")
ANY = MetricsConfig(port=0)


def gauges(*, recording: bool = False) -> Gauges:
    return Gauges(
        fps_in=30.0,
        fps_inference=9.5,
        dropped_inference_frames=7,
        operating_point="sensitive",
        threshold=0.5,
        recording=recording,
    )


def scraped(viewer: MetricsViewer) -> dict[str, float]:
    from prometheus_client.parser import text_string_to_metric_families

    with urlopen(viewer.address, timeout=5) as answer:
        text = answer.read().decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {sample.name + "".join(f" {value}" for value in sample.labels.values()): sample.value for sample in samples}


def test_a_scraper_reads_what_was_shown() -> None:
    with MetricsViewer(ANY) as viewer:
        for index in range(10):
            markers = (marker(),) if index > 5 else ()
            viewer.show(live_frame(index, markers=markers, captured_at=monotonic() - 0.0035), gauges(recording=True))
        read = scraped(viewer)
    assert viewer.address.startswith("http://127.0.0.1:")
    assert read["polypstream_frames_total"] == 10
    assert read["polypstream_polyp_frames_total"] == 4
    assert read["polypstream_dropped_inference_frames"] == 7
    assert read["polypstream_fps_in"] == 30
    assert read["polypstream_fps_inference"] == 9.5
    assert read["polypstream_recording"] == 1
    assert read["polypstream_light ready"] == 1
    assert read["polypstream_light lost"] == 0
    assert read["polypstream_video_delay_seconds_count"] == 10
    assert read["polypstream_video_delay_seconds_bucket 0.003"] == 0
    assert read["polypstream_video_delay_seconds_sum"] == pytest.approx(0.035, abs=0.02)
    assert read["polypstream_marker_delay_seconds_count"] == 10
    assert not any("python" in name or "process" in name for name in read)


def test_evidence_that_is_shown_again_is_timed_once() -> None:
    from dataclasses import replace

    with MetricsViewer(ANY) as viewer:
        began = monotonic()
        for index in range(6):
            age = 0.04 * (index % 3)
            shown = replace(live_frame(index, captured_at=began + 0.04 * index), evidence_age_s=age)
            viewer.show(shown, gauges())
        assert scraped(viewer)["polypstream_marker_delay_seconds_count"] == 2


def test_a_lost_picture_that_comes_back_is_a_reconnect() -> None:
    lost = Status(light=Light.LOST, reason="no picture")
    with MetricsViewer(ANY) as viewer:
        viewer.tell(lost)
        viewer.show(live_frame(0), gauges())
        assert scraped(viewer)["polypstream_reconnects_total"] == 0
        viewer.tell(lost)
        viewer.tell(lost)
        assert scraped(viewer)["polypstream_light lost"] == 1
        viewer.show(live_frame(1), gauges())
        read = scraped(viewer)
    assert read["polypstream_reconnects_total"] == 1
    assert read["polypstream_light ready"] == 1


def test_closing_frees_the_port_and_leaves_no_thread() -> None:
    before = set(threading.enumerate())
    with MetricsViewer(ANY) as viewer:
        port = int(viewer.address.split(":")[2].split("/")[0])
        scraped(viewer)
        with pytest.raises(SinkError, match=f"metrics cannot be served on 127.0.0.1:{port} .*choose another port"):
            MetricsViewer(MetricsConfig(port=port))
    assert set(threading.enumerate()) <= before
    with socket.socket() as probe, pytest.raises(ConnectionRefusedError):
        probe.connect(("127.0.0.1", port))


def test_without_the_extra_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'polypstream\[metrics\]'"):
        MetricsViewer(ANY)

"""The metrics match what the session did, and serving them ends with the session."""

import json
import re
import socket
import sys
import threading
from pathlib import Path
from time import monotonic
from urllib.request import urlopen

import pytest

from polypstream.errors import MissingExtraError, OutputError
from polypstream.realtime.live.display_frame import Light, Status
from polypstream.realtime.live.events import Event, EventKind
from polypstream.realtime.live.outputs.output import OutputState
from polypstream.realtime.live.viewers.prometheus import Metrics, MetricsConfig
from polypstream.realtime.live.viewers.viewer import LiveStatistics
from tests.live_frames import live_frame, marker

pytest.importorskip("prometheus_client", reason="needs the extra [metrics]")
ANY = MetricsConfig(port=0)
DASHBOARD = Path(__file__).parents[4] / "packaging" / "grafana" / "polypstream.json"


def statistics(*, recording: bool = False, outputs: tuple[OutputState, ...] = ()) -> LiveStatistics:
    return LiveStatistics(
        fps_in=30.0,
        fps_inference=9.5,
        dropped_inference_frames=7,
        inferences=3,
        unusable_frames=5,
        dropped_frames=1,
        operating_point="sensitive",
        threshold=0.5,
        recording=recording,
        outputs=outputs,
    )


def scraped(metrics: Metrics) -> dict[str, float]:
    """Samples by name and the values of their labels; the first label, the stream, is omitted where it is 1."""
    from prometheus_client.parser import text_string_to_metric_families

    with urlopen(metrics.address, timeout=5) as answer:
        text = answer.read().decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    labels = [{name: value for name, value in s.labels.items() if (name, value) != ("stream", "1")} for s in samples]
    names = [" ".join((s.name, *label.values())) for s, label in zip(samples, labels, strict=True)]
    return {name: sample.value for name, sample in zip(names, samples, strict=True)}


def test_a_scraper_reads_what_was_shown(tmp_path: Path) -> None:
    push = OutputState(kind="push", label="rtsp://host/scope", is_working=True, sent=8, dropped=2, failures=1)
    with Metrics(ANY) as metrics:
        viewer = metrics.stream(folder=tmp_path / "not" / "there" / "yet", viewers=lambda: 2)
        for index in range(10):
            markers = (marker(),) if index > 5 else ()
            viewer.show(
                live_frame(index, markers=markers, captured_at=monotonic() - 0.0035),
                statistics(recording=True, outputs=(push,)),
            )
        viewer.publish(Event(kind=EventKind.POLYP_APPEARED))
        viewer.publish(Event(kind=EventKind.RECORDING_STOPPED))
        viewer.publish(Event(kind=EventKind.RECORDING_STOPPED, details={"reason": "the disk is full"}))
        read = scraped(metrics)
    assert metrics.address.startswith("http://127.0.0.1:")
    expected = {
        "frames_total": 10,
        "marked_frames_total": 4,
        "frames_not_inferred_total": 7,
        "inferences_total": 3,
        "frames_unusable_total": 5,
        "frames_dropped_total": 1,
        "alarms_total": 1,
        "recording_failures_total": 1,
        "events_total recording_stopped": 2,
        "recording": 1,
        "saving": 1,
        "viewers": 2,
        "light ready": 1,
        "light lost": 0,
        "video_delay_seconds_count": 10,
        "video_delay_seconds_bucket 0.003": 0,
        "marker_delay_seconds_count": 10,
        "output_working push rtsp://host/scope": 1,
        "output_sent_total push rtsp://host/scope": 8,
        "output_dropped_total push rtsp://host/scope": 2,
        "output_failures_total push rtsp://host/scope": 1,
    }
    assert {name: read[f"polypstream_{name}"] for name in expected} == expected
    assert read["polypstream_video_delay_seconds_sum"] == pytest.approx(0.035, abs=0.02)
    assert read["polypstream_disk_free_bytes"] > 0
    assert not any("python" in name or "process" in name for name in read)


def test_streams_are_counted_separately() -> None:
    with Metrics(ANY) as metrics:
        first, second = metrics.stream(), metrics.stream()
        first.show(live_frame(0), statistics())
        second.show(live_frame(0), statistics())
        second.show(live_frame(1), statistics())
        read = scraped(metrics)
    assert (read["polypstream_frames_total"], read["polypstream_frames_total 2"]) == (1, 2)


def test_the_dashboard_shows_metrics_that_exist(tmp_path: Path) -> None:
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    texts = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    asked = set(re.findall(r"polypstream_\w+", " ".join(texts)))
    output = OutputState(kind="push", label="x", is_working=True)
    with Metrics(ANY) as metrics:
        viewer = metrics.stream(folder=tmp_path)
        viewer.show(live_frame(0), statistics(outputs=(output,)))
        viewer.publish(Event(kind=EventKind.POLYP_APPEARED))
        served = {name.partition(" ")[0] for name in scraped(metrics)}
    assert len(asked) > 12
    assert asked <= served
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_evidence_that_is_shown_again_is_timed_once() -> None:
    from dataclasses import replace

    with Metrics(ANY) as metrics:
        viewer, began = metrics.stream(), monotonic()
        for index in range(6):
            age = 0.04 * (index % 3)
            shown = replace(live_frame(index, captured_at=began + 0.04 * index), inference_age_s=age)
            viewer.show(shown, statistics())
        assert scraped(metrics)["polypstream_marker_delay_seconds_count"] == 2


def test_a_lost_picture_that_comes_back_is_a_reconnect() -> None:
    lost = Status(light=Light.LOST, reason="no video")
    with Metrics(ANY) as metrics:
        viewer = metrics.stream()
        viewer.tell(lost, statistics())
        viewer.show(live_frame(0), statistics())
        assert scraped(metrics)["polypstream_reconnects_total"] == 0
        viewer.tell(lost, statistics())
        viewer.tell(lost, statistics())
        assert scraped(metrics)["polypstream_light lost"] == 1
        viewer.show(live_frame(1), statistics())
        read = scraped(metrics)
    assert read["polypstream_reconnects_total"] == 1
    assert read["polypstream_light ready"] == 1


def test_closing_frees_the_port_and_leaves_no_thread() -> None:
    before = set(threading.enumerate())
    with Metrics(ANY) as metrics:
        port = int(metrics.address.split(":")[2].split("/")[0])
        scraped(metrics)
        with pytest.raises(OutputError, match=f"metrics cannot be served on 127.0.0.1:{port} .*choose another port"):
            Metrics(MetricsConfig(port=port))
    assert set(threading.enumerate()) <= before
    with socket.socket() as probe, pytest.raises(ConnectionRefusedError):
        probe.connect(("127.0.0.1", port))


def test_without_the_extra_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(MissingExtraError, match=r"\[metrics\]'"):
        Metrics(ANY)

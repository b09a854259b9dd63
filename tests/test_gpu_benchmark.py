"""The GPU benchmark's script on a CPU: all parts, continuing after an interruption, and its tables."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.documents import with_tables
from benchmarks.gpu.lanes import CpuPlatform, Lane
from benchmarks.gpu.networks import cost
from benchmarks.gpu.parts import TINY, Bench, parts
from benchmarks.gpu.plugin import PACKAGE, plugin_times
from benchmarks.gpu.progress import Progress, Result, Unavailable
from benchmarks.gpu.table import gpu_tables
from benchmarks.gpu.timing import run_streams
from benchmarks.report import RESULTS
from tests.models import SIZE, write_green_finder

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_a_dry_run_killed_half_way_continues_and_keeps_out_of_the_results(tmp_path: Path) -> None:
    committed = sorted(RESULTS.iterdir())
    model = write_green_finder(tmp_path / "tiny.onnx")
    command = [sys.executable, "-u", "-m", "benchmarks.gpu", "--dry-run", "--network", f"tiny={model}"]
    command += ["--work", str(tmp_path), "--results", str(tmp_path / "results")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as killed:
        assert killed.stdout is not None
        assert "engine/tiny: done\n" in iter(killed.stdout.readline, ""), "the run ended too early"
        killed.kill()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in ("copies", "matrix", "cost/tiny", "engine/tiny"):
        assert f"{name}: measured before" in done.stdout
    assert "streams/tiny/180p/2: done" in done.stdout
    assert "Dry run, no figures of a GPU" in done.stdout
    assert sorted(RESULTS.iterdir()) == committed
    assert not (tmp_path / "results").exists()
    (path,) = (tmp_path / "dry-run").glob("gpu-*.json")
    report = json.loads(path.read_text(encoding="utf-8"))
    assert report["dry_run"] is True
    assert report["left"] == []
    measured = {name for name, result in report["parts"].items() if "skipped" not in result}
    assert measured == {
        *("copies", "matrix", "cost/tiny", "engine/tiny", "steps/tiny/96p", "steps/tiny/180p"),
        *(f"{kind}/tiny/{count}" for kind in ("bare", "shared") for count in (1, 2)),
        *(f"streams/tiny/{size}/{count}" for size in ("96p", "180p") for count in (1, 2)),
    }
    for figures in report["parts"]["steps/tiny/180p"].values():
        assert not isinstance(figures, dict) or "skipped" in figures or 0 < figures["p50_ms"] <= figures["p99_ms"]
    streams = report["parts"]["streams/tiny/180p/2"]
    assert streams["fps"] > 0
    assert streams["latency"]["samples"] >= 10


class Killed(BaseException):
    """Ends a run within a part, as a crash of the driver would."""


def test_a_run_continues_where_the_last_one_was_killed(tmp_path: Path) -> None:
    path, calls = tmp_path / "partial.json", []

    def part(name: str) -> Result:
        calls.append(name)
        return {"figure": len(calls)}

    def crash() -> Result:
        raise Killed

    first = Progress(path, {"device": "a"}, seconds=60)
    first.run("one", lambda: part("one"))
    with pytest.raises(Killed):
        first.run("two", crash)
    second = Progress(path, {"device": "a"}, seconds=60)
    second.run("one", lambda: part("one"))
    second.run("two", lambda: part("two"))
    assert calls == ["one", "two"], "what was measured is not measured again"
    assert {name: result["figure"] for name, result in second.results.items()} == {"one": 1, "two": 2}
    other = Progress(path, {"device": "b"}, seconds=60)
    assert other.results == {}, "results of another device are not taken over"


def test_a_part_that_ends_the_process_each_time_is_left_out_in_the_end(tmp_path: Path) -> None:
    def crash() -> Result:
        raise Killed

    for _ in range(2):
        with pytest.raises(Killed):
            Progress(tmp_path / "partial.json", {}, seconds=60).run("one", crash)
    last = Progress(tmp_path / "partial.json", {}, seconds=60)
    last.run("one", crash)
    assert "2 runs ended" in str(last.results["one"]["skipped"])


def test_what_was_skipped_is_tried_again_and_what_has_no_time_is_left(tmp_path: Path) -> None:
    def missing() -> Result:
        raise Unavailable("no such library")

    path = tmp_path / "partial.json"
    progress = Progress(path, {}, seconds=60)
    progress.run("one", missing)
    assert progress.results["one"]["skipped"] == "no such library"
    again = Progress(path, {}, seconds=60)
    again.run("one", lambda: {"figure": 1})
    assert again.results["one"]["figure"] == 1
    late = Progress(path, {}, seconds=-1)
    late.run("two", lambda: {"figure": 2})
    assert late.left == ["two"]


def test_a_stream_that_fails_ends_all_and_gives_the_reason(tmp_path: Path) -> None:
    model = write_green_finder(tmp_path / "m.onnx")
    bench = Bench(platform=CpuPlatform(), amounts=TINY, work=tmp_path, networks={"m": model}, data=None, int8=None)
    bench.clip("96p")
    calls: list[int] = []

    def step(lane: Lane) -> None:
        calls.append(1)
        if len(calls) == 5:
            raise Unavailable("no more memory")
        lane.infer()

    with pytest.raises(Unavailable, match="no more memory"):
        run_streams(lambda: bench.lane("m", "96p"), step, count=3, seconds=0.05)


def test_parts_cover_720p_and_1080p_and_16_streams(tmp_path: Path) -> None:
    from benchmarks.gpu.parts import FULL

    bench = Bench(platform=CpuPlatform(), amounts=FULL, work=tmp_path, networks={}, data=None, int8=None)
    names = [name for name, _ in parts(bench)]
    assert names[:2] == ["copies", "matrix"]
    for network in ("shipped", "exact ResUNet++"):
        for size in ("720p", "1080p"):
            assert {f"streams/{network}/{size}/{count}" for count in (1, 2, 4, 8, 16)} <= set(names)
    budget = sum(FULL.streams_s for name in names if name.startswith(("streams", "bare", "shared")))
    budget += sum(FULL.step_s * 5 for name in names if name.startswith(("steps", "engine")))
    assert budget < 5 * 60, "three minutes remain for building engines and opening streams"


def test_cost_counts_operations_and_bytes(tmp_path: Path) -> None:
    found = cost(write_green_finder(tmp_path / "m.onnx"))
    pixels = SIZE * SIZE
    assert found["gflop"] == pytest.approx(2 * 3 * pixels / 1e9)
    assert found["least_bytes"] == 3 * pixels + 4 * pixels + 4 * 4, "image, probability, three weights and a bias"
    assert found["layer_bytes"] == found["least_bytes"] + 4 * 3 * pixels + 4 * pixels  # type: ignore[operator]


def report(**parts: Any) -> dict[str, Any]:
    conditions = {"device": "Card", "tensorrt": "TensorRT 11"}
    return {"dry_run": False, "commit": "abc", "conditions": conditions, "parts": parts}


def test_tables_relate_streams_to_the_network_alone_and_networks_to_their_floors() -> None:
    spread = {"p50_ms": 1.0, "p95_ms": 2.0, "p99_ms": 3.0}
    text = gpu_tables(
        report(
            **{
                "copies": {"host_to_device": 50e9, "device_to_host": 40e9, "on_device": 1e12},
                "matrix": {"flop_per_s": 1e14, "library": "cupy"},
                "cost/net": {"gflop": 10, "least_bytes": 1e8, "layer_bytes": 1e9},
                "engine/net": {"with_graph": spread, "without_graph": spread, "from_host": spread},
                "steps/net/720p": {"decode": spread, "encode": {"skipped": "no NVENC"}},
                "bare/net/4": {"fps": 2000.0},
                "shared/net/4": {"fps": 3000.0, "latency": spread, "largest_by_smallest_share": 1.25},
                "streams/net/1080p/4": {"fps": 1800.0, "latency": spread},
                "drift/int8": {"skipped": "no --data"},
            }
        )
    )
    assert "| net | 10 | 0.1 | 0.1 | 1 | 1 | 1 | 1 |" in text
    assert "| net, 1080p | 4 | 1800 | 0.9 | 1 | 2 | 3 |" in text
    assert "| net | 4 | 3000 | 1.25 | 1 | 2 | 3 |" in text
    assert "- drift/int8: no --data" in text
    assert "- steps/net/720p/encode: no NVENC" in text
    assert "Dry run" not in text


def test_a_document_keeps_its_text_until_there_is_a_report(tmp_path: Path) -> None:
    text = "a\n<!-- gpu -->\n\nnot measured\n\n<!-- /gpu -->\nb"
    assert with_tables(text, tmp_path) == text
    (tmp_path / "gpu-card.json").write_text(json.dumps(report(copies={"skipped": "broken"})), encoding="utf-8")
    assert "not measured\n" not in with_tables(text, tmp_path)
    assert "- copies: broken" in with_tables(text, tmp_path)


PLUGIN = """
import onnxruntime
__version__ = "1.2.3"
{change}
def get_ep_name(): return "{provider}"
def get_library_path(): return "/absent.so"
"""


def test_the_plugin_of_onnx_runtime_is_timed_in_its_own_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for the package names the CPU as its device; all else is ONNX Runtime."""
    model = write_green_finder(tmp_path / "tiny.onnx")
    package, known = tmp_path / f"{PACKAGE}.py", "onnxruntime.register_execution_provider_library = lambda *_: None"
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    for change, provider, reason in (
        ("raise ModuleNotFoundError", "", "plugin: onnxruntime-ep-nv-tensorrt-rtx is not installed"),
        ("", "CPUExecutionProvider", "plugin: .*Failed to load library"),
        (known, "NvTensorRTRTXExecutionProvider", "plugin: it finds no GPU that it knows"),
    ):
        package.write_text(PLUGIN.format(change=change, provider=provider))
        with pytest.raises(Unavailable, match=reason):
            plugin_times(model, seconds=0.01)
    package.write_text(PLUGIN.format(change=known, provider="CPUExecutionProvider"))
    found: Any = plugin_times(model, seconds=0.01)
    assert 0 < found["p50_ms"] <= found["p99_ms"]
    assert (found["plugin"], found["providers"]) == ("1.2.3", ["CPUExecutionProvider"])

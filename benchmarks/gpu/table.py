"""Markdown tables of a GPU report."""

from collections.abc import Mapping
from typing import Any

STEPS = ("decode", "preprocess", "engine", "mark", "encode")
_PERCENTILES = ("p50_ms", "p95_ms", "p99_ms")


def gpu_tables(report: Mapping[str, Any]) -> str:
    """Format a report: limits of the device, the networks against them, steps, streams, a shared network, drift."""
    parts: Mapping[str, Any] = report["parts"]
    device = report["conditions"]
    title = f"{device['device']}, {device.get('tensorrt', 'without TensorRT')}, commit {report['commit']}"
    if report["dry_run"]:
        title = f"**Dry run, no figures of a GPU.** {title}"
    tables = (
        _limits(parts),
        _networks(parts),
        _steps(parts),
        _streams(parts),
        _shared(parts),
        _drift(parts),
        _skipped(parts),
    )
    return "\n\n".join([f"{title}.", *(table for table in tables if table)])


def _limits(parts: Mapping[str, Any]) -> str:
    copies, matrix = parts.get("copies", {}), parts.get("matrix", {})
    rows = [
        ("host to device, pinned, GB/s", _scaled(copies.get("host_to_device"), 1e9)),
        ("device to host, pinned, GB/s", _scaled(copies.get("device_to_host"), 1e9)),
        ("on the device, read and written, GB/s", _scaled(copies.get("on_device"), 1e9)),
        (f"matrix product, TFLOP/s ({matrix.get('library', 'not measured')})", _scaled(matrix.get("flop_per_s"), 1e12)),
    ]
    return _table(("limits of the device", ""), rows)


def _networks(parts: Mapping[str, Any]) -> str:
    """Relate each network to its floors: operations at the matrix rate, bytes at the rate of copies on the device."""
    rows = []
    rate, bandwidth = parts.get("matrix", {}).get("flop_per_s"), parts.get("copies", {}).get("on_device")
    for key, engine in parts.items():
        kind, _, name = key.partition("/")
        if kind != "engine":
            continue
        needs = parts.get(f"cost/{name}", {})
        rows.append(
            (
                name,
                _number(needs.get("gflop")),
                _number(needs["gflop"] * 1e12 / rate if rate and "gflop" in needs else None),
                *(
                    _number(needs[size] * 1e3 / bandwidth if bandwidth and size in needs else None)
                    for size in ("least_bytes", "layer_bytes")
                ),
                *(_number(engine.get(way, {}).get("p50_ms")) for way in ("with_graph", "without_graph", "from_host")),
                _number(parts.get(f"plugin/{name}", {}).get("p50_ms")),
            )
        )
    floors = ("network", "GFLOP", "floor by FLOP, ms", "by weights and ends, ms", "by layers' bytes, ms")
    measured = ("with graph, ms", "without, ms", "from host, ms", "ONNX Runtime's plugin, ms")
    return _table((*floors, *measured), rows) if rows else ""


def _steps(parts: Mapping[str, Any]) -> str:
    rows = []
    for key, result in parts.items():
        kind, *where = key.split("/")
        if kind == "steps" and "skipped" not in result:
            for step in STEPS:
                figures = result.get(step, {})
                cells = (_number(figures.get(name)) for name in _PERCENTILES)
                rows.append((", ".join(where), step, *cells))
    return _table(("one frame", "step", "p50, ms", "p95, ms", "p99, ms"), rows) if rows else ""


def _streams(parts: Mapping[str, Any]) -> str:
    rows = []
    for key, result in parts.items():
        kind, *where = key.split("/")
        if kind == "streams" and "skipped" not in result:
            name, size, count = where
            bare = parts.get(f"bare/{name}/{count}", {}).get("fps")
            share = _number(result["fps"] / bare if bare else None)
            latency = (_number(result["latency"][each]) for each in _PERCENTILES)
            rows.append((f"{name}, {size}", count, f"{result['fps']:.0f}", share, *latency))
    head = ("decode to marked frame", "streams", "fps of all", "of the network alone", "p50, ms", "p95, ms", "p99, ms")
    return _table(head, rows) if rows else ""


def _shared(parts: Mapping[str, Any]) -> str:
    rows = []
    for key, result in parts.items():
        kind, *where = key.split("/")
        if kind == "shared" and "skipped" not in result:
            latency = (_number(result["latency"][each]) for each in _PERCENTILES)
            share = _number(result["largest_by_smallest_share"])
            rows.append((where[0], where[1], f"{result['fps']:.0f}", share, *latency))
    head = ("one network, shared in batches", "streams", "fps of all", "largest by smallest share")
    return _table((*head, "p50, ms", "p95, ms", "p99, ms"), rows) if rows else ""


def _drift(parts: Mapping[str, Any]) -> str:
    rows = []
    for key, result in parts.items():
        kind, _, precision = key.partition("/")
        if kind == "drift" and "skipped" not in result:
            for name, drift in result.items():
                if isinstance(drift, Mapping):
                    interval = f"{drift['mean']:+.4f} [{drift['low']:+.4f}, {drift['high']:+.4f}]"
                    tail = (f"{drift[each]:.4f}" for each in ("p99", "largest"))
                    rows.append((f"{precision}, {name}", str(drift["images"]), interval, *tail))
    return _table(("change of Dice", "images", "mean [95%]", "p99", "largest"), rows) if rows else ""


def _skipped(parts: Mapping[str, Any]) -> str:
    """List what was not measured, with the reason."""
    lines = [f"- {key}: {result['skipped']}" for key, result in parts.items() if "skipped" in result]
    for key, result in parts.items():
        if key.startswith("steps/"):
            steps = {step: result[step].get("skipped") for step in STEPS if step in result}
            lines += [f"- {key}/{step}: {reason}" for step, reason in steps.items() if reason]
    return "\n".join(["Not measured:", "", *lines]) if lines else ""


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]] | list[tuple[str, str]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _scaled(value: float | None, unit: float) -> str:
    return _number(None if value is None else value / unit)

"""`polypstream doctor` checks what its help promises, and says how to fix what fails."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from polypstream.cli.doctor import doctor as doctor_command
from polypstream.errors import requirement
from polypstream.realtime import doctor as checks_module
from polypstream.realtime.doctor import EXTRAS, Check, requirements_of
from polypstream.realtime.inference.segmenter import BACKENDS, TRITON
from polypstream.realtime.live.sources.device import CaptureDevice

Checks = Mapping[str, Mapping[str, Any]]


def doctor(*options: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "polypstream", "doctor", *options],
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def by_name(group: str, text: str) -> Checks:
    return {check["name"]: check for check in json.loads(text) if check["group"] == group}


@pytest.fixture(scope="module")
def report() -> str:
    return doctor("--json")


def test_every_backend_is_run_and_not_only_looked_up(report: str) -> None:
    backends = by_name("backends", report)
    assert list(backends) == [*BACKENDS, TRITON]
    assert backends["onnxruntime"]["works"]
    assert backends["onnxruntime"]["detail"].endswith("ms per frame")
    assert all(check["works"] or check["fix"] for check in backends.values())


def test_models_encoders_display_devices_gstreamer_and_extras_are_checked(report: str) -> None:
    assert len([check for check in by_name("models", report).values() if check["works"]]) == 3
    encoders = by_name("video encoders", report)
    assert encoders["libx264"]["works"]
    assert {"libx265", "ffv1", "h264_nvenc"} <= encoders.keys()
    live = by_name("live feeds", report)
    assert {"display", "srt:// addresses", "GStreamer polypoverlay"} < live.keys()
    assert any(name == "capture devices" or name.startswith("/dev/video") for name in live)
    assert by_name("extras", report).keys() == EXTRAS.keys()
    assert {"processor", "native module", "NVIDIA GPU"} == by_name("machine", report).keys()


def test_a_gstreamer_without_the_element_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    inspect = tmp_path / "gst-inspect-1.0"
    inspect.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    inspect.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    (check,) = [check for check in (checks_module._gstreamer(),) if not check.works]
    assert "loader" in check.detail
    assert check.fix is not None
    assert "gstreamer1.0-python3-plugin-loader" in check.fix
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert "not installed" in checks_module._gstreamer().detail


def test_a_capture_device_comes_with_its_formats_or_its_problem(tmp_path: Path) -> None:
    node = tmp_path / "video0"
    node.touch()
    good = CaptureDevice(path=str(node), name="Grabber", formats=("Motion-JPEG (MJPG)", "YUYV 4:2:2 (YUYV)"))
    check = checks_module._device(good)
    assert (check.works, check.detail, check.fix) == (True, "Grabber: Motion-JPEG (MJPG), YUYV 4:2:2 (YUYV)", None)
    locked = CaptureDevice(path=str(tmp_path / "video1"), name="Grabber", problem="permission denied")
    check = checks_module._device(locked)
    assert (check.works, check.detail) == (False, "Grabber: permission denied")
    assert "usermod -aG video" in (check.fix or "")


def test_an_extra_with_a_missing_package_comes_with_its_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks_module, "_installed", lambda name: name != "tensorflow")
    extras = {check.name: check for check in checks_module._extras()}
    assert extras["serve"].works
    for extra in ("train", "export"):
        assert not extras[extra].works
        assert "missing: tensorflow" in extras[extra].detail
        assert (extras[extra].fix or "").endswith(f"pip install {requirement(extra)}")


def test_extras_include_those_they_name() -> None:
    assert {"tensorflow", "keras", "tf2onnx"} <= set(requirements_of("export"))
    assert "onnxslim" not in requirements_of("train")


def test_a_check_whose_native_library_fails_is_reported_not_raised() -> None:
    def broken() -> str:
        raise OSError("libcuda.so.1: cannot open shared object file\nmore")

    check = checks_module._tried("machine", "thing", broken)
    assert check == Check(
        group="machine", name="thing", works=False, detail="libcuda.so.1: cannot open shared object file"
    )


def test_the_table_fits_a_terminal(
    report: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(checks_module, "checks", lambda: (Check(**check) for check in json.loads(report)))
    monkeypatch.setenv("COLUMNS", "80")
    doctor_command()
    text = capsys.readouterr().out
    assert all(len(line) <= 80 for line in text.splitlines())
    assert all(Check(**check).name in text for check in json.loads(report))

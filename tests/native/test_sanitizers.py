"""The C++ code makes no access beyond its memory and has no undefined behavior."""

from pathlib import Path

import pytest

from tests.native.build import build, run

pytestmark = pytest.mark.slow


def test_random_and_extreme_input_is_clean_under_sanitizers(tmp_path: Path) -> None:
    options = {"POLYPSTREAM_CUDA": "OFF", "POLYPSTREAM_C_LIBRARY": "OFF", "POLYPSTREAM_DRIVER": "ON"}
    build(tmp_path, **options, POLYPSTREAM_SANITIZE="ON", CMAKE_BUILD_TYPE="Debug")
    assert "all checks passed" in run(tmp_path / "polypstream_driver")

"""Output names: none may replace an input video of the batch, and all must be valid."""

from pathlib import Path

import pytest

from polypstream.errors import ConfigError, OutputError
from polypstream.realtime.annotate.outputs import check_batch, check_name


def touched(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"video")
    return path


@pytest.mark.parametrize("result", ["q_overlay.mp4", "q_overlay.mkv", "q_overlay.mov", "q_overlay.partial.mp4"])
@pytest.mark.parametrize("is_there", [True, False])
@pytest.mark.parametrize("is_first", [True, False])
def test_a_result_that_would_overwrite_another_video_is_refused(
    tmp_path: Path, result: str, is_there: bool, is_first: bool
) -> None:
    video, other = touched(tmp_path / "q.mp4"), tmp_path / result
    if is_there:
        touched(other)
    with pytest.raises(ConfigError, match=r"q_overlay.*choose another output folder"):
        check_batch([other, video] if is_first else [video, other], tmp_path)


def test_links_and_other_paths_to_one_file_are_recognized(tmp_path: Path) -> None:
    video, out = touched(tmp_path / "in" / "q.mp4"), tmp_path / "out"
    other = touched(tmp_path / "in" / "other.mp4")
    out.mkdir()
    (out / "q_overlay.mp4").symlink_to(other)
    with pytest.raises(ConfigError, match=r"other\.mp4"):
        check_batch([video, other], out)
    (out / "q_overlay.mp4").unlink()
    (out / "q_overlay.mp4").hardlink_to(other)
    with pytest.raises(ConfigError, match=r"other\.mp4"):
        check_batch([video, other], out)
    (out / "q_overlay.mp4").unlink()
    (tmp_path / "link").symlink_to(out)
    later = touched(out / "q_overlay.mp4")
    with pytest.raises(ConfigError, match="q_overlay"):
        check_batch([video, later], tmp_path / "link" / ".." / "out")
    with pytest.raises(ConfigError, match="q_overlay"):
        check_batch([video, later], tmp_path / "link")


def test_the_same_name_in_two_folders_is_refused(tmp_path: Path) -> None:
    videos = [touched(tmp_path / "a" / "x.mp4"), touched(tmp_path / "b" / "x.mkv")]
    with pytest.raises(ConfigError, match="several videos are named x"):
        check_batch(videos, tmp_path / "out")


def test_a_usual_batch_and_a_second_run_are_fine(tmp_path: Path) -> None:
    videos = [
        touched(tmp_path / name) for name in ("a.mp4", "b.mkv", "A.avi", "c_overlay.mp4", ".hidden.mp4", "d..mp4")
    ]
    touched(tmp_path / "a_overlay.mp4")
    check_batch(videos, tmp_path)
    check_batch([*videos, tmp_path / "absent.mp4", tmp_path / ("n" * 300)], tmp_path / "new" / "folder")


@pytest.mark.parametrize("name", ["n" * 300 + ".mp4", "n" * 240 + ".mp4", "大" * 80 + ".mp4"])
def test_a_name_too_long_for_its_results_is_reported(tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError, match=r"is too long.*rename the video"):
        check_name(tmp_path / name, tmp_path)
    check_name(tmp_path / ("n" * 200 + ".mp4"), tmp_path)

"""Inputs of a batch: files, folders, patterns and lists."""

from pathlib import Path

from polypstream.realtime.annotate.inputs import InputVideo, find_videos, names_in


def touched(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"video")
    return path


def test_a_folder_is_searched_and_its_subfolders_are_repeated_in_the_output(tmp_path: Path) -> None:
    a, b = touched(tmp_path / "in" / "a.mp4"), touched(tmp_path / "in" / "room 2" / "day" / "b.MKV")
    for other in ("notes.txt", ".hidden.mp4", ".trash/c.mp4", "a_overlay.mp4", "b_overlay.partial.mkv", "out/d.mp4"):
        touched(tmp_path / "in" / other)
    videos, unmatched = find_videos([tmp_path / "in"], output=tmp_path / "in" / "out")
    assert videos == [InputVideo(path=a), InputVideo(path=b, subfolder=Path("room 2/day"))]
    assert not unmatched


def test_patterns_are_expanded_and_each_video_comes_once(tmp_path: Path) -> None:
    a, b = touched(tmp_path / "in" / "x" / "a.mp4"), touched(tmp_path / "in" / "x" / "y" / "b.mp4")
    touched(tmp_path / "in" / "x" / "a.csv")
    again = tmp_path / "in" / "x" / ".." / "x" / "y" / "b.mp4"
    videos, _ = find_videos([b, str(tmp_path / "in" / "**" / "*"), again], output=tmp_path / "in" / "out")
    assert videos == [InputVideo(path=b), InputVideo(path=a, subfolder=Path("x"))]

    touched(tmp_path / "in" / "out" / "c.mp4")
    assert find_videos([str(tmp_path / "in" / "**" / "*")], output=tmp_path / "in" / "out")[0][1:] == [
        InputVideo(path=b, subfolder=Path("x/y"))
    ]
    assert [each.path for each in find_videos([tmp_path / "in" / "x"], output=tmp_path / "in" / "x")[0]] == [a, b]


def test_a_file_whose_name_looks_like_a_pattern_is_a_file(tmp_path: Path) -> None:
    odd = touched(tmp_path / "case [1].mp4")
    assert find_videos([odd], output=tmp_path / "out") == ([InputVideo(path=odd)], [])


def test_names_without_a_video_are_reported_and_missing_files_are_left_to_the_reader(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    names = [tmp_path / "empty", tmp_path / "*.mp4", tmp_path / "absent.mp4"]
    videos, unmatched = find_videos(names, output=tmp_path / "out")
    assert [each.path.name for each in videos] == ["absent.mp4"]
    assert [each.name for each in unmatched] == [str(tmp_path / "empty"), str(tmp_path / "*.mp4")]
    assert all("no video" in each.error for each in unmatched)


def test_lists_hold_a_name_per_line_or_between_zero_bytes() -> None:
    assert names_in("a b.mp4\n\nc.mp4\r\n") == ["a b.mp4", "c.mp4"]
    assert names_in("a\nb.mp4\0c.mp4\0") == ["a\nb.mp4", "c.mp4"]

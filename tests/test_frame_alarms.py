from benchmarks.frame_alarms import AREA_SHARES, RUN_LENGTHS, frame_alarms, frame_alarms_table


def test_marked_frames_without_a_polyp_are_counted_by_area_and_run() -> None:
    largest = [0.0, 0.002, 0.03, 0.0, 0.006, 0.5, 0.001, 0.0, 0.0, 0.0, 0.0]
    has_polyp = [False] * 5 + [True] + [False] * 5
    row = frame_alarms(largest, has_polyp)
    assert row["clean_frames"] == 10
    assert dict(zip(AREA_SHARES, row["by_area"], strict=True)) == {
        0.0: 0.4,
        0.001: 0.4,
        0.005: 0.2,
        0.01: 0.1,
        0.02: 0.1,
        0.05: 0.0,
    }
    assert dict(zip(RUN_LENGTHS, row["by_run"], strict=True)) == {1: 0.4, 2: 0.2, 3: 0.0, 6: 0.0, 12: 0.0}
    assert frame_alarms_table({"0.5": row}).count("40.0%") == 2


def test_a_polyp_in_every_frame_leaves_nothing_to_count() -> None:
    row = frame_alarms([0.1, 0.0], [True, True])
    assert row == {"clean_frames": 0, "by_area": None, "by_run": None}
    assert frame_alarms_table({"0.5": row}).count("\n") == 1

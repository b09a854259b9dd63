"""An NDI source sends the marked frames, and a placeholder while there are none, to a real receiver."""

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from polypstream.errors import MissingExtraError
from polypstream.realtime.live.display_frame import Light, Status
from polypstream.realtime.live.outputs.ndi import Ndi
from polypstream.synthetic.counter import counter_from_rgb
from tests.realtime.live.feeds import wait_until
from tests.realtime.live.outputs.servers import SIZE, STATISTICS, feeding

NAME = "polypstream test"


@contextmanager
def received() -> Iterator[Callable[[], NDArray[np.uint8] | None]]:
    """A receiver on this machine; calling it returns the newest image, RGB (H, W, 3), or None before the first."""
    from cyndilib.finder import Finder
    from cyndilib.receiver import Receiver
    from cyndilib.video_frame import VideoFrameSync
    from cyndilib.wrapper.ndi_recv import RecvBandwidth, RecvColorFormat

    finder = Finder()
    finder.open()
    try:
        wait_until(lambda: any(NAME in name for name in finder.get_source_names()))
        receiver = Receiver(color_format=RecvColorFormat.RGBX_RGBA, bandwidth=RecvBandwidth.highest)
        video = VideoFrameSync()
        receiver.frame_sync.set_video_frame(video)
        receiver.set_source(next(source for source in finder if NAME in source.name))

        def newest() -> NDArray[np.uint8] | None:
            receiver.frame_sync.capture_video()
            if not video.xres:
                return None
            return np.array(video.get_array(), np.uint8).reshape(video.yres, video.xres, 4)[..., :3]

        yield newest
        receiver.disconnect()
    finally:
        finder.close()


@pytest.mark.slow
@pytest.mark.realtime
def test_receiver_gets_frames_and_then_the_placeholder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cyndilib", reason="needs the extra [ndi]")
    (tmp_path / "ndi-config.v1.json").write_text('{"ndi": {"networks": {"ips": "127.0.0.1,"}}}')
    monkeypatch.setenv("NDI_CONFIG_DIR", str(tmp_path))  # finds sources of this machine without mDNS
    before = set(threading.enumerate())
    with closing(Ndi(NAME)) as ndi:
        with feeding(ndi), received() as newest:
            wait_until(lambda: ndi.state.is_working)
            numbers: list[int] = []

            def enough() -> bool:
                image = newest()
                number = None if image is None else counter_from_rgb(image)
                if number is not None and number not in numbers:
                    numbers.append(number)
                return len(numbers) >= 10

            wait_until(enough)
            assert numbers == sorted(numbers)
            image = newest()
            assert image is not None
            assert image.shape == (SIZE[1], SIZE[0], 3)
        ndi.tell(Status(light=Light.LOST, reason="no video"), STATISTICS)
        with received() as newest:
            wait_until(lambda: (image := newest()) is not None and counter_from_rgb(image) is None)
        assert ndi.state.sent > 10
        assert ndi.state.problem == ""
    assert set(threading.enumerate()) <= before


def test_without_the_extra_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "cyndilib.sender", None)
    with pytest.raises(MissingExtraError, match=r"\[ndi\]"):
        Ndi(NAME)

"""Which packets are keyframes, read from the packets where FFmpeg's parser does not say."""

import re
from collections.abc import Callable, Mapping
from typing import Any

_START_CODE = re.compile(rb"\x00\x00\x01(.)", re.DOTALL)


def is_keyframe(codec: str, packet: Any) -> bool:  # noqa: ANN401 - anything with a buffer of bytes
    """Whether decoding can begin with a packet of a codec in `FRAMED`: its headers come before its first slice."""
    verdict_of = FRAMED[codec]
    for found in _START_CODE.finditer(memoryview(packet)):
        verdict = verdict_of(found[1][0])
        if verdict is not None:
            return verdict
    return False


def _h264(code: int) -> bool | None:
    unit = code & 31  # ITU-T H.264, table 7-1: 7 is a sequence parameter set, 5 a slice of an IDR picture
    return True if unit in {5, 7} else False if 1 <= unit <= 4 else None


def _hevc(code: int) -> bool | None:
    unit = code >> 1 & 63  # ITU-T H.265, table 7-1: 32 and 33 are parameter sets, 16 to 23 random access pictures
    return True if unit in {32, 33} or 16 <= unit <= 23 else False if unit < 16 else None


def _mpeg2(code: int) -> bool | None:
    return True if code == 0xB3 else False if 0x01 <= code <= 0xAF else None  # a sequence header; a slice


FRAMED: Mapping[str, Callable[[int], bool | None]] = {
    "h264": _h264,
    "hevc": _hevc,
    "mpeg1video": _mpeg2,
    "mpeg2video": _mpeg2,
}
"""By the second value of a start code: True for a keyframe, False for another picture, None for look further."""

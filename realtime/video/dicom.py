"""Reads DICOM video objects: where the coded video lies in the file, and what the header states about it.

The coded video is a stream like any other, as it is or in MP4, MPEG-TS or MPEG-PS, cut into fragments. FFmpeg reads it
through `DicomVideo.open`, straight from the file. Nothing about the patient is taken from the header.
"""

import io
import os
import warnings
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from polypstream.errors import MissingExtraError, SourceError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer
    from pydicom import Dataset

SUFFIXES = frozenset({".dcm", ".dicom"})

_PREAMBLE_BYTES = 128
_PIXEL_DATA = b"\xe0\x7f\x10\x00"
_SEQUENCE_END = b"\xfe\xff\xdd\xe0"
_UNDEFINED_LENGTH = 0xFFFFFFFF
_JPEG = frozenset({"1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"})
"""Baseline with 8 bits and extended with 8 or 12: one image per frame, one after another."""
_MPEG = tuple(f"1.2.840.10008.1.2.4.{number}" for number in range(100, 109))
"""MPEG-2, H.264 and HEVC; ".1" at the end allows several fragments."""
_TAGS = [
    "SOPClassUID",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "CineRate",
    "FrameTime",
    "FrameTimeVector",
    "RecommendedDisplayFrameRate",
    "PixelAspectRatio",
]
_USUAL_RATES = tuple(Fraction(rate) * step for rate in (24, 25, 30, 50, 60) for step in (1, Fraction(1000, 1001)))


def is_dicom(path: Path) -> bool:
    """Whether a file begins as DICOM objects do, with or without their preamble. Raises `OSError`."""
    with path.open("rb") as file:
        head = file.read(_PREAMBLE_BYTES + 4)
    # without a preamble, a data set starts with an element of group 0x0002 or 0x0008
    has_no_preamble = head[:2] in {b"\x02\x00", b"\x08\x00"} and head[4:6] in {b"UL", b"UI", b"CS"}
    return head[_PREAMBLE_BYTES:] == b"DICM" or has_no_preamble


@dataclass(frozen=True, kw_only=True)
class DicomVideo:
    """A DICOM object with coded video, and what its header says about the video."""

    path: Path
    fragments: Sequence[tuple[int, int]]
    """Position in the file and length, in bytes, of each piece of the stream."""
    is_cut_off: bool
    """Whether the file ends before the stream is complete."""
    format: str | None
    """FFmpeg's name of the stream's format; None where the stream tells."""
    rate: Fraction | None
    """Frames per second."""
    frames: int | None
    size: tuple[int, int] | None
    """Width and height of a frame in pixels."""
    sample_aspect_ratio: Fraction | None
    """Width over height of a pixel."""

    def open(self) -> io.RawIOBase:
        """The stream as a file of its own, which can be searched; no part of it is held in memory."""
        return _FragmentedFile(self.path, self.fragments)

    def notices(self, *, frames: int, size: tuple[int, int], rate: Fraction | None, has_times: bool) -> list[str]:
        """Where header and stream differ, one line each.

        Args:
            frames: Number of frames in the stream.
            size: Width and height of its frames in pixels.
            rate: Frames per second according to the stream.
            has_times: Whether the stream states when its frames are shown; else the header's rate holds.
        """
        notices = []
        if self.frames is not None and self.frames != frames:
            notices.append(f"the DICOM header states {self.frames} frames, the stream has {frames}")
        if self.size is not None and self.size != size:
            stated, found = (f"{width}x{height}" for width, height in (self.size, size))
            notices.append(f"the DICOM header states frames of {stated} pixels, the stream has {found}")
        if not has_times and self.rate is None:
            notices.append(f"neither the DICOM header nor the stream states a frame rate: {rate} per second is assumed")
        if has_times and self.rate and rate and abs(rate / self.rate - 1) > Fraction(1, 200):
            notices.append(
                f"the DICOM header states {float(self.rate):.2f} frames per second, the stream {float(rate):.2f}: "
                "the times in the stream are used"
            )
        return notices


def read_dicom(path: Path) -> DicomVideo | None:
    """Find the video in a DICOM object.

    Args:
        path: An existing file of any kind.

    Returns:
        Where the video lies; None if the file is not a DICOM object.

    Raises:
        MissingExtraError: It is a DICOM object, and pydicom is not installed (extra `[dicom]`).
        SourceError: The object is damaged, or holds something else than video that FFmpeg reads.
        OSError: The file cannot be read.
    """
    if not is_dicom(path):
        return None
    with path.open("rb") as file:
        header = _header_from(file, path, tags=_TAGS)
        syntax = str(getattr(header.file_meta, "TransferSyntaxUID", ""))
        _check_encapsulated(file, path, syntax)
        fragments, is_cut_off = _fragments(file, path)
    columns, rows = _whole(header, "Columns"), _whole(header, "Rows")
    return DicomVideo(
        path=path,
        fragments=fragments,
        is_cut_off=is_cut_off,
        format="mjpeg" if syntax in _JPEG else None,
        rate=_rate(header),
        frames=_whole(header, "NumberOfFrames"),
        size=(columns, rows) if columns and rows else None,
        sample_aspect_ratio=_aspect_ratio(header),
    )


def read_header(path: Path) -> "Dataset":
    """All of a DICOM object but its pixels.

    Raises:
        MissingExtraError: pydicom is not installed.
        SourceError: The file is not a DICOM object, or is damaged.
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        return _header_from(file, path)


def _header_from(file: BinaryIO, path: Path, tags: list[str] | None = None) -> "Dataset":
    """Read up to the pixel data, at which the file is left."""
    try:
        from pydicom import dcmread
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"{path} is a DICOM object, which", "dicom") from error
    try:
        with warnings.catch_warnings(action="ignore"):  # about values that no one here relies on
            return dcmread(file, stop_before_pixels=True, force=True, specific_tags=tags)
    except Exception as error:  # noqa: BLE001 - pydicom raises errors of many kinds on damaged objects
        raise SourceError(f"{path} is a damaged DICOM object ({error}); export it again from the archive") from None


def _check_encapsulated(file: BinaryIO, path: Path, syntax: str) -> None:
    """Check that what follows is the pixel data of coded video; the file is then left at its first item."""
    element = file.read(12)
    if element[:4] != _PIXEL_DATA:
        raise SourceError(f"{path} is a DICOM object without pixels, such as a report or a DICOMDIR; give a video")
    if int.from_bytes(element[8:], "little") != _UNDEFINED_LENGTH or not (syntax in _JPEG or syntax.startswith(_MPEG)):
        from pydicom.uid import UID

        raise SourceError(
            f"{path} is a DICOM object whose pixels are stored as {UID(syntax).name or 'unknown'}; MPEG-2, H.264, HEVC "
            f"and baseline JPEG can be read: convert it, for example with 'dcmcjpeg +eb {path.name} converted.dcm'"
        )


def _fragments(file: BinaryIO, path: Path) -> tuple[list[tuple[int, int]], bool]:
    """Position and length of all fragments, and whether the file ends before them."""
    from pydicom.encaps import parse_basic_offsets, parse_fragments

    try:
        parse_basic_offsets(file)
        _, items = parse_fragments(file)
    except (ValueError, OSError) as error:
        raise SourceError(f"{path} is a damaged DICOM object ({error}); export it again from the archive") from None
    except Exception as error:  # noqa: BLE001 - struct.error, where the file ends
        raise SourceError(f"{path} is cut off before its first frame ({error}); export it again") from None
    if not items:
        raise SourceError(f"{path} is a DICOM object without a frame; export it again from the archive")
    file.seek(items[-1] + 4)
    last = int.from_bytes(file.read(4), "little")
    file_end = file.seek(0, os.SEEK_END)
    ends = [*items[1:], min(items[-1] + 8 + last, file_end)]
    file.seek(ends[-1])
    is_cut_off = file.read(4) != _SEQUENCE_END
    return [(item + 8, end - item - 8) for item, end in zip(items, ends, strict=True)], is_cut_off


def _rate(header: "Dataset") -> Fraction | None:
    """Frames per second: by the frame time, which has digits behind the point, else by the rates."""
    times_ms = _numbers(header, "FrameTimeVector")[1:]  # the first is that before the first frame
    rates = [*_numbers(header, "CineRate"), *_numbers(header, "RecommendedDisplayFrameRate")]
    if time_ms := next((each for each in _numbers(header, "FrameTime") if each > 0), None):
        stated = 1000 / Fraction(time_ms)
        digit = Fraction(1, 10 ** max(-int(time_ms.as_tuple().exponent), 0))
        usual = [rate for rate in _USUAL_RATES if abs(1000 / rate - Fraction(time_ms)) <= digit]
        return min(usual, key=lambda rate: abs(rate - stated), default=stated)
    if sum(times_ms) > 0:
        return (1000 * len(times_ms) / Fraction(sum(times_ms))).limit_denominator(1001)
    return next((Fraction(rate) for rate in rates if rate > 0), None)


def _aspect_ratio(header: "Dataset") -> Fraction | None:
    sides = _numbers(header, "PixelAspectRatio")  # height, then width
    return Fraction(sides[1]) / Fraction(sides[0]) if len(sides) == 2 and min(sides) > 0 else None


def _whole(header: "Dataset", name: str) -> int | None:
    return next((int(value) for value in _numbers(header, name) if value > 0), None)


def _numbers(header: "Dataset", name: str) -> list[Decimal]:
    """Values of an element, read without pydicom's checks: a rate of 29.97 should be an integer, but helps."""
    element = header.get_item(name)
    value = None if element is None else element.value
    if isinstance(value, bytes) and element is not None and element.VR == "US":
        value = [int.from_bytes(value, "little")]
    texts = value.decode("ascii", "replace").split("\\") if isinstance(value, bytes) else value or []
    numbers = []
    for text in texts:
        try:
            number = Decimal(str(text).strip(" \0"))
        except InvalidOperation:
            continue
        if number.is_finite():
            numbers.append(number)
    return numbers


class _FragmentedFile(io.RawIOBase):
    """Parts of a file, one after another."""

    def __init__(self, path: Path, parts: Sequence[tuple[int, int]]) -> None:
        self._parts = [part for part in parts if part[1] > 0]
        self._starts = [0, *accumulate(length for _, length in self._parts)]
        self._position = 0
        self._file = os.open(path, os.O_RDONLY)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._starts[-1]}[whence]
        self._position = max(origin + offset, 0)
        return self._position

    def readinto(self, buffer: "WriteableBuffer") -> int:
        wanted, done = memoryview(buffer).cast("B"), 0
        while done < len(wanted) and self._position < self._starts[-1]:
            number = bisect_right(self._starts, self._position) - 1
            place, length = self._parts[number]
            skipped = self._position - self._starts[number]
            data = os.pread(self._file, min(len(wanted) - done, length - skipped), place + skipped)
            if not data:
                break
            wanted[done : done + len(data)] = data
            done, self._position = done + len(data), self._position + len(data)
        return done

    def close(self) -> None:
        if not self.closed:
            os.close(self._file)
        super().close()

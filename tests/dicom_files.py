"""DICOM objects with video, made of small clips that PyAV encodes."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    HEVCMP51,
    MPEG2MPML,
    MPEG4HP41,
    UID,
    JPEGBaseline8Bit,
    VideoEndoscopicImageStorage,
    generate_uid,
)

PATIENT = {"PatientName": "Doe^Jane", "PatientID": "PID-4711", "AccessionNumber": "ACC-0815"}
"""What identifies the patient of every object here."""
PREAMBLE = bytes(128) + b"DICM"


@dataclass(frozen=True, kw_only=True)
class Coding:
    """How a clip is coded, and which transfer syntax says so."""

    format: str
    codec: str
    syntax: UID
    pixel_format: str = "yuv420p"
    options: tuple[tuple[str, str], ...] = ()


_QUIET = (("x265-params", "log-level=none:bframes=2"),)
CODINGS = {
    "h264": Coding(format="h264", codec="libx264", syntax=MPEG4HP41, options=(("bf", "2"),)),
    "h264-mp4": Coding(format="mp4", codec="libx264", syntax=MPEG4HP41, options=(("bf", "2"),)),
    "h264-ts": Coding(format="mpegts", codec="libx264", syntax=MPEG4HP41, options=(("bf", "2"),)),
    "mpeg2": Coding(format="mpeg2video", codec="mpeg2video", syntax=MPEG2MPML, options=(("bf", "2"),)),
    "mpeg2-ps": Coding(format="vob", codec="mpeg2video", syntax=MPEG2MPML, options=(("qmin", "1"), ("qmax", "2"))),
    "hevc": Coding(format="hevc", codec="libx265", syntax=HEVCMP51, options=_QUIET),
    "hevc10": Coding(
        format="hevc", codec="libx265", syntax=UID("1.2.840.10008.1.2.4.108"), pixel_format="yuv420p10le",
        options=_QUIET,
    ),
    "jpeg": Coding(format="mjpeg", codec="mjpeg", syntax=JPEGBaseline8Bit, pixel_format="yuvj422p"),
}  # fmt: skip


def packets_of(
    coding: Coding, pictures: Sequence[np.ndarray[Any, Any]], *, rate: Fraction = Fraction(25)
) -> tuple[bytes, list[bytes]]:
    """The whole stream, and the packets in it."""
    height, width = pictures[0].shape[:2]
    file, packets = io.BytesIO(), []
    with av.open(file, "w", format=coding.format) as container:
        stream: Any = container.add_stream(coding.codec, rate=rate, options=dict(coding.options))
        stream.width, stream.height, stream.pix_fmt = width, height, coding.pixel_format
        for index, image in enumerate([*pictures, None]):
            frame = None if image is None else av.VideoFrame.from_ndarray(image, format="rgb24")
            if frame is not None:
                frame.pts, frame.time_base = index, 1 / rate
            for packet in stream.encode(frame):
                packets.append(bytes(packet))
                container.mux(packet)
    return file.getvalue(), packets


def header_of(syntax: UID, *, frames: int, width: int, height: int, **elements: Any) -> FileDataset:
    """The header of a video object; `elements` by keyword, None to leave one out."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID = elements.pop("SOPClassUID", VideoEndoscopicImageStorage)
    meta.MediaStorageSOPInstanceUID = generate_uid()
    data = FileDataset("", Dataset(), preamble=bytes(128), file_meta=meta)
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data.StudyInstanceUID, data.SeriesInstanceUID = generate_uid(), generate_uid()
    values = {
        "Modality": "ES", "StudyID": "1", "StudyDate": "20260101", "StudyTime": "120000", "SeriesNumber": 1,
        "InstanceNumber": 1, "PatientBirthDate": "19500101", "PatientSex": "F", "ReferringPhysicianName": "Roe^Richard",
        "Manufacturer": "Acme", "NumberOfFrames": frames, "Rows": height, "Columns": width, "SamplesPerPixel": 3,
        "PhotometricInterpretation": "YBR_PARTIAL_420", "PlanarConfiguration": 0, "BitsAllocated": 8, "BitsStored": 8,
        "HighBit": 7, "PixelRepresentation": 0, "CineRate": 25, "FrameTime": "40", "LossyImageCompression": "01",
        **PATIENT,
        **elements,
    }  # fmt: skip
    for keyword, value in values.items():
        if value is not None:
            setattr(data, keyword, value)
    return data


def write_dicom(
    path: Path,
    coding: Coding,
    pictures: Sequence[np.ndarray[Any, Any]],
    *,
    fragments: int = 1,
    has_offsets: bool = False,
    rate: Fraction = Fraction(25),
    **elements: Any,
) -> Path:
    """Write a video object.

    Args:
        path: The file.
        coding: How the pictures are coded.
        pictures: uint8 RGB (H, W, 3) each.
        fragments: Into how many the stream is cut; JPEG images have one each.
        has_offsets: Whether the Basic Offset Table is filled.
        rate: Frames per second according to the stream.
        **elements: Of the header, by keyword; None leaves one out.
    """
    height, width = pictures[0].shape[:2]
    stream, packets = packets_of(coding, pictures, rate=rate)
    header = header_of(coding.syntax, frames=elements.pop("NumberOfFrames", len(pictures)), width=width, height=height)
    for keyword, value in elements.items():
        if value is None:
            delattr(header, keyword)
        else:
            setattr(header, keyword, value)
    pieces = packets if coding.codec == "mjpeg" else [stream]
    header.PixelData = encapsulate(pieces, fragments_per_frame=fragments, has_bot=has_offsets)
    header["PixelData"].is_undefined_length = True
    header.save_as(path, enforce_file_format=True)
    return path


def moving_disc(frames: int, *, width: int = 160, height: int = 120) -> list[np.ndarray[Any, Any]]:
    """Frames whose number can be read from them: a disc that moves two pixels per frame over a gray ground."""
    y, x = np.indices((height, width))
    images = []
    for index in range(frames):
        image = np.full((height, width, 3), 60, np.uint8)
        image[(x - 20 - 2 * index) ** 2 + (y - height // 2) ** 2 < 15**2] = (210, 90, 70)
        images.append(image)
    return images


def disc_position(image: np.ndarray[Any, Any]) -> int:
    """Number of the frame of `moving_disc` that an image shows."""
    columns = np.flatnonzero((image[:, :, 0] > 130).any(axis=0))
    return round((float(columns.mean()) - 20) / 2)

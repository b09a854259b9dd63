"""Decodes masks from the run-length encodings of COCO, CVAT and Label Studio."""

from collections.abc import Sequence

import numpy as np

from polypstream.arrays import Mask


def mask_from_runs(runs: Sequence[int], *, width: int, height: int) -> Mask:
    """Decode row-wise run lengths, background first, as used by CVAT.

    Args:
        runs: Numbers of pixels, alternating between background and foreground.
        width: Width of the mask.
        height: Height of the mask.

    Returns:
        bool (height, width).

    Raises:
        ValueError: The runs do not fill the mask exactly.
    """
    values = np.arange(len(runs)) % 2 == 1
    pixels = np.repeat(values, np.asarray(runs, np.int64))
    if len(pixels) != width * height:
        raise ValueError(f"run lengths of {len(pixels)} pixels for a mask of {width}x{height}")
    return np.asarray(pixels.reshape(height, width))


def mask_from_coco(counts: Sequence[int] | str, *, width: int, height: int) -> Mask:
    """Decode COCO's column-wise run lengths, as numbers or compressed text; see `mask_from_runs`."""
    runs = coco_runs(counts) if isinstance(counts, str) else counts
    return np.ascontiguousarray(mask_from_runs(runs, width=height, height=width).T)


def coco_runs(text: str) -> list[int]:
    """Decompress COCO's run lengths: 5 bits per character, differences from the third run on."""
    runs: list[int] = []
    value = shift = 0
    for character in text.encode():
        bits = character - 48
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return runs


def mask_from_brush(data: Sequence[int], *, width: int, height: int) -> Mask:
    """Decode a Label Studio brush: a run-length encoded RGBA image with the mask in its alpha channel.

    Raises:
        ValueError: The bytes are not an encoded image of this size.
    """
    bits = np.unpackbits(np.asarray(data, np.uint8)).tolist()
    at = 0

    def number(count: int) -> int:
        nonlocal at
        if at + count > len(bits):
            raise ValueError("a brush ends too early")
        value = 0
        for bit in bits[at : at + count]:
            value = value << 1 | bit
        at += count
        return value

    length, word = number(32), number(5) + 1
    sizes = [number(4) + 1 for _ in range(4)]
    if length != 4 * width * height:
        raise ValueError(f"a brush of {length // 4} pixels for an image of {width}x{height}")
    pixels = np.zeros(length, np.uint8)
    done = 0
    while done < length:
        is_run = number(1)
        end = done + 1 + number(sizes[number(2)])
        if is_run:
            pixels[done:end] = number(word)
        else:
            for place in range(done, min(end, length)):
                pixels[place] = number(word)
        done = end
    return np.asarray(pixels.reshape(height, width, 4)[..., 3] > 0)

from dataclasses import replace
from functools import cache
from itertools import product
from typing import Any

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange, Colorspace
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from polypstream.errors import ConfigError
from polypstream.realtime.outlines.contours import Polyp, polyp_from_contour
from polypstream.realtime.outlines.drawing import (
    MIN_THICKNESS_PX,
    MarkerStyle,
    draw_markers,
    is_drawable,
    marker_coverage,
)

FORMATS = {
    # name: pixels per chroma sample across and down; bits; shift; for each component its plane, step and offset
    "yuv420p": (2, 2, 8, 0, [(0, 1, 0), (1, 1, 0), (2, 1, 0)]),
    "yuvj420p": (2, 2, 8, 0, [(0, 1, 0), (1, 1, 0), (2, 1, 0)]),
    "yuv422p": (2, 1, 8, 0, [(0, 1, 0), (1, 1, 0), (2, 1, 0)]),
    "yuvj422p": (2, 1, 8, 0, [(0, 1, 0), (1, 1, 0), (2, 1, 0)]),
    "yuv444p": (1, 1, 8, 0, [(0, 1, 0), (1, 1, 0), (2, 1, 0)]),
    "yuv411p": (4, 1, 8, 0, [(0, 1, 0), (1, 1, 0), (2, 1, 0)]),
    "yuv410p": (4, 4, 8, 0, [(0, 1, 0), (1, 1, 0), (2, 1, 0)]),
    "yuv440p": (1, 2, 8, 0, [(0, 1, 0), (1, 1, 0), (2, 1, 0)]),
    "gray": (1, 1, 8, 0, [(0, 1, 0)]),
    "gray10le": (1, 1, 10, 0, [(0, 1, 0)]),
    "gray12le": (1, 1, 12, 0, [(0, 1, 0)]),
    "gray16be": (1, 1, 16, 0, [(0, 1, 0)]),
    "yuv420p10le": (2, 2, 10, 0, [(0, 1, 0), (1, 1, 0), (2, 1, 0)]),
    "yuv420p10be": (2, 2, 10, 0, [(0, 1, 0), (1, 1, 0), (2, 1, 0)]),
    "yuv422p12le": (2, 1, 12, 0, [(0, 1, 0), (1, 1, 0), (2, 1, 0)]),
    "yuv444p16le": (1, 1, 16, 0, [(0, 1, 0), (1, 1, 0), (2, 1, 0)]),
    "nv12": (2, 2, 8, 0, [(0, 1, 0), (1, 2, 0), (1, 2, 1)]),
    "nv21": (2, 2, 8, 0, [(0, 1, 0), (1, 2, 1), (1, 2, 0)]),
    "nv16": (2, 1, 8, 0, [(0, 1, 0), (1, 2, 0), (1, 2, 1)]),
    "nv24": (1, 1, 8, 0, [(0, 1, 0), (1, 2, 0), (1, 2, 1)]),
    "p010le": (2, 2, 10, 6, [(0, 1, 0), (1, 2, 0), (1, 2, 1)]),
    "p016le": (2, 2, 16, 0, [(0, 1, 0), (1, 2, 0), (1, 2, 1)]),
    "yuva420p": (2, 2, 8, 0, [(0, 1, 0), (1, 1, 0), (2, 1, 0)]),
    "yuva444p10le": (1, 1, 10, 0, [(0, 1, 0), (1, 1, 0), (2, 1, 0)]),
    "gbrp": (1, 1, 8, 0, [(2, 1, 0), (0, 1, 0), (1, 1, 0)]),
    "gbrp10le": (1, 1, 10, 0, [(2, 1, 0), (0, 1, 0), (1, 1, 0)]),
    "gbrap": (1, 1, 8, 0, [(2, 1, 0), (0, 1, 0), (1, 1, 0)]),
}
formats = pytest.mark.parametrize("name", FORMATS)
PLAIN = MarkerStyle(casing=0)


def frame(name: str, width: int, height: int, *, seed: int | None = None) -> av.VideoFrame:
    """A frame with random values in every byte of its planes, padding included; nearly mid-gray without a seed."""
    picture = av.VideoFrame(width, height, name)
    _, _, bits, shift, _ = FORMATS[name]
    for index in range(len(picture.planes)):
        memory = raw(picture, index)
        if seed is None:
            memory[:] = 2 ** (bits - 1) << shift
        else:
            memory[:] = np.random.default_rng(seed + index).integers(0, 2**bits, memory.shape) << shift
    return picture


def raw(picture: av.VideoFrame, index: int) -> NDArray[Any]:
    """Everything in a plane's memory, padding included: (rows, values in a line)."""
    plane = picture.planes[index]
    bits = FORMATS[picture.format.name][2]
    dtype = np.dtype("u1" if bits == 8 else ">u2" if picture.format.name.endswith("be") else "<u2")
    return np.frombuffer(memoryview(plane), dtype).reshape(-1, plane.line_size // dtype.itemsize)


def components(picture: av.VideoFrame) -> list[NDArray[Any]]:
    """The color components, computed independently of the package."""
    across, down, _, shift, places = FORMATS[picture.format.name]
    found = []
    for place, (plane, step, offset) in enumerate(places):
        is_chroma = place > 0 and not picture.format.is_rgb
        width = -(-picture.width // across) if is_chroma else picture.width
        height = -(-picture.height // down) if is_chroma else picture.height
        found.append(raw(picture, plane)[:height, offset::step][:, :width] >> shift)
    return found


def outline(x: float, y: float, radius: float, *, lobes: int = 3, points: int = 60) -> Polyp:
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    r = radius * (1 + 0.15 * np.sin(lobes * angle))
    contour = np.column_stack((x + r * np.cos(angle), y + r * np.sin(angle)))
    return polyp_from_contour(contour.astype(np.float32), score=0.9)


def polygon(*corners: tuple[float, float]) -> Polyp:
    return polyp_from_contour(np.array(corners, dtype=np.float32), score=0.9)


def distance_from(polyps: list[Polyp], width: int, height: int) -> NDArray[np.float64]:
    """Distance of each pixel center from the nearest contour, by brute force: (height, width)."""
    rows, columns = np.mgrid[:height, :width] + 0.5
    nearest = np.full((height, width), np.inf)
    for polyp in polyps:
        start = polyp.contour.astype(np.float64)
        for a, b in zip(start, np.roll(start, -1, axis=0), strict=True):
            way = b - a
            along = ((columns - a[0]) * way[0] + (rows - a[1]) * way[1]) / max(way @ way, 1e-12)
            along = np.clip(along, 0, 1)
            nearest = np.minimum(nearest, np.hypot(columns - a[0] - along * way[0], rows - a[1] - along * way[1]))
    return nearest


@cache
def scene(width: int, height: int) -> tuple[list[Polyp], NDArray[np.float64]]:
    """Two polyps, one of which leaves the frame, and the distance of each pixel from their contours."""
    polyps = [outline(width * 0.4, height * 0.5, height * 0.3), outline(width, height, height * 0.4)]
    return polyps, distance_from(polyps, width, height)


def any_in_block(mask: NDArray[np.bool_], across: int, down: int) -> NDArray[np.bool_]:
    height, width = mask.shape
    padded = np.pad(mask, ((0, -height % down), (0, -width % across)))
    blocks = padded.reshape(padded.shape[0] // down, down, padded.shape[1] // across, across)
    return np.asarray(blocks.any(axis=(1, 3)))


def line_px(style: MarkerStyle, height: int) -> float:
    return max(style.thickness * height, MIN_THICKNESS_PX)


@formats
@pytest.mark.parametrize("size", [(127, 97), (64, 48), (33, 2), (2, 33), (1, 1)])
def test_every_sample_that_no_marker_covers_keeps_every_bit(name: str, size: tuple[int, int]) -> None:
    width, height = size
    picture = frame(name, width, height, seed=7)
    before = [raw(picture, index).copy() for index in range(len(picture.planes))]
    style = MarkerStyle(thickness=0.03, casing=0.015)
    polyps, distance = scene(width, height)
    draw_markers(picture, polyps, style)

    # The area that a marker may cover, computed without the package.
    reach = line_px(style, height) / 2 + style.casing * height + 0.5
    near = distance < reach + 1e-3
    across, down, _, _, places = FORMATS[name]
    for plane in range(len(before)):
        may_change = np.zeros(before[plane].shape, dtype=bool)
        for place, (at, step, offset) in enumerate(places):
            if at == plane:
                is_chroma = place > 0 and not picture.format.is_rgb
                touched = any_in_block(near, across, down) if is_chroma else near
                may_change[: touched.shape[0], offset::step][:, : touched.shape[1]] = touched
        changed = raw(picture, plane) != before[plane]
        assert not (changed & ~may_change).any()
        if plane in [at for at, _, _ in places] and min(size) > 40:
            assert changed[may_change].mean() > 0.7

    for coverage, values in zip(marker_coverage(picture, polyps, style), components(picture), strict=True):
        assert coverage.shape == values.shape
        assert coverage.min() >= 0
        assert coverage.max() <= 1 + 1e-6


@formats
def test_the_coverage_map_tells_which_samples_change_and_how(name: str) -> None:
    picture = frame(name, 127, 97, seed=3)
    before = [values.astype(np.float64) for values in components(picture)]
    draw_markers(picture, [outline(60, 48, 30)], replace(PLAIN, opacity=0.8))
    coverage = marker_coverage(picture, [outline(60, 48, 30)], replace(PLAIN, opacity=0.8))
    rounding = 0.5 + 1e-4 * 2.0 ** FORMATS[name][2]
    for old, new, share in zip(before, components(picture), coverage, strict=True):
        assert (new[share == 0] == old[share == 0]).all()
        # The color that the blend must have used is one number for the whole plane.
        strong = share > share.max() / 2
        assert strong.sum() > 20
        color = (new[strong] - old[strong] * (1 - share[strong])) / share[strong]
        assert np.ptp(color) <= 2 * rounding / share[strong].min()


@formats
@pytest.mark.parametrize("size", [(127, 97), (66, 50)])
def test_chroma_takes_the_mean_of_the_pixels_that_share_a_sample(name: str, size: tuple[int, int]) -> None:
    across, down, *_ = FORMATS[name]
    width, height = size
    picture = frame(name, width, height)
    luma, *others = marker_coverage(picture, [outline(width - 20, height - 12, 28)], MarkerStyle())
    assert luma[:, -1].any()
    assert luma[-1].any()
    if picture.format.is_rgb:
        across = down = 1
    for chroma in others:
        wanted = [
            [luma[y : y + down, x : x + across].mean() for x in range(0, width, across)] for y in range(0, height, down)
        ]
        np.testing.assert_allclose(chroma, wanted, atol=1e-5)


TAGS = {"709": Colorspace.ITU709, "601": Colorspace.ITU601, "2020": Colorspace.BT2020, "untagged": None}
RANGES = {"limited": ColorRange.MPEG, "full": ColorRange.JPEG, "unspecified": ColorRange.UNSPECIFIED}
COLORS = [
    *product(["yuv420p", "yuv444p", "p010le"], TAGS, RANGES, [192, 720]),
    *product(
        [name for name in FORMATS if name.startswith(("y", "nv", "p0")) and "j" not in name],
        ["709"],
        ["limited"],
        [192],
    ),
    *product(FORMATS, ["untagged"], ["unspecified"], [192]),
    *product(["gray", "gray12le"], ["709"], ["full"], [192]),
]


@pytest.mark.parametrize(("name", "tag", "extent", "height"), COLORS)
def test_players_show_the_color_that_was_asked_for(name: str, tag: str, extent: str, height: int) -> None:
    colorspace, color_range = TAGS[tag], RANGES[extent]
    picture = frame(name, 96, height)
    if colorspace is not None:
        picture.colorspace = colorspace
    picture.color_range = color_range
    polyp = polygon((20, 20), (70, 30), (50, 160))
    style = MarkerStyle(rgb=(40, 230, 150), thickness=9 / height)
    draw_markers(picture, [polyp], style)
    assumed = colorspace or (Colorspace.ITU709 if height >= 720 else Colorspace.ITU601)
    is_full = color_range == ColorRange.JPEG or name.startswith(("yuvj", "gray", "gb"))
    shown = picture.reformat(
        format="rgb24",
        src_colorspace=assumed,
        dst_colorspace=Colorspace.ITU709,
        src_color_range=ColorRange.JPEG if is_full else ColorRange.MPEG,
        dst_color_range=ColorRange.JPEG,
        interpolation="POINT",
    ).to_ndarray()
    inside = distance_from([polyp], 96, height) < 0.5
    assert inside.sum() > 50
    wanted = np.array(style.rgb, dtype=np.float64)
    if name.startswith("gray"):
        wanted[:] = wanted @ ((0.2126, 0.7152, 0.0722) if assumed == Colorspace.ITU709 else (0.299, 0.587, 0.114))
    tolerance = 2 if max(FORMATS[name][:2]) < 4 else 30  # a chroma sample four pixels wide also sees the surroundings
    assert np.abs(np.median(shown[inside], axis=0) - wanted).max() <= tolerance


@given(
    x=st.floats(-60, 190),
    y=st.floats(-60, 160),
    radius=st.floats(0.01, 90),
    lobes=st.integers(0, 7),
    points=st.integers(1, 200),
    thickness=st.floats(0, 0.05),
    casing=st.floats(0, 0.03),
)
@settings(max_examples=60, deadline=None)
def test_coverage_follows_the_distance_from_the_contour(
    x: float, y: float, radius: float, lobes: int, points: int, thickness: float, casing: float
) -> None:
    style = MarkerStyle(thickness=thickness, casing=casing, casing_opacity=1)
    polyp = outline(x, y, radius, lobes=lobes, points=points)
    luma, *_ = marker_coverage(frame("yuv420p", 127, 97), [polyp], style)
    distance = distance_from([polyp], 127, 97)
    wanted = np.clip(line_px(style, 97) / 2 + casing * 97 + 0.5 - distance, 0, 1)
    np.testing.assert_allclose(luma, wanted, atol=2e-3)


@given(x=st.floats(-30, 130), y=st.floats(-30, 130), radius=st.floats(1, 60))
@settings(max_examples=40, deadline=None)
def test_contours_are_clipped_at_the_frame_without_wrapping(x: float, y: float, radius: float) -> None:
    inner, *_ = marker_coverage(frame("yuv420p", 96, 80), [outline(x, y, radius)], PLAIN)
    outer, *_ = marker_coverage(frame("yuv420p", 416, 400), [outline(x + 160, y + 160, radius)], PLAIN)
    np.testing.assert_allclose(inner, outer[160:240, 160:256], atol=2e-3)


@pytest.mark.parametrize("far", [1e4, 1e9])
def test_a_contour_far_outside_is_drawn_where_it_crosses_the_image(far: float) -> None:
    picture = frame("yuv420p", 96, 80)
    luma, *_ = marker_coverage(picture, [polygon((-far, 40), (far, 40), (far, far), (-far, far))], PLAIN)
    assert (luma[39:41] > 0.5).all()
    assert not luma[:38].any()
    assert not luma[42:].any()
    luma, *_ = marker_coverage(picture, [polygon((far, far), (2 * far, far), (far, 2 * far))], PLAIN)
    assert not luma.any()
    draw_markers(picture, [polygon((-1e38, 40), (1e38, 40), (1e38, -1e38))], PLAIN)  # past all precision, yet no crash


@given(dx=st.floats(0, 1), dy=st.floats(0, 1), thickness=st.floats(0.008, 0.04))
@settings(max_examples=30, deadline=None)
def test_lines_are_even_at_any_subpixel_position(dx: float, dy: float, thickness: float) -> None:
    style = replace(PLAIN, thickness=thickness)
    polyp = outline(100 + dx, 100 + dy, 70, lobes=0, points=400)
    luma, *_ = marker_coverage(frame("gray", 200, 200), [polyp], style)
    assert luma.sum() == pytest.approx(2 * np.pi * 70 * thickness * 200, rel=0.01)
    # Also piece by piece: in 24 sectors, each some 18 pixels of line.
    rows, columns = np.mgrid[:200, :200] + 0.5
    angle = np.arctan2(rows - 100 - dy, columns - 100 - dx)
    sector = ((angle + np.pi) / (2 * np.pi) * 24).astype(int).clip(0, 23)
    ink = np.bincount(sector.ravel(), luma.ravel())
    assert np.ptp(ink) / ink.mean() < 0.25


def test_a_line_is_the_same_however_many_vertices_it_has() -> None:
    corners = [(10.3, 9.1), (100.2, 20.7), (60.6, 80.4)]
    ends = [*corners[1:], corners[0]]
    dense = [
        (a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t)
        for a, b in zip(corners, ends, strict=True)
        for t in np.arange(0, 1, 1 / 97)
    ]
    few, *_ = marker_coverage(frame("gray", 127, 97), [polygon(*corners)], MarkerStyle())
    many, *_ = marker_coverage(frame("gray", 127, 97), [polygon(*dense)], MarkerStyle())
    np.testing.assert_allclose(few, many, atol=1e-3)


def test_fading_scales_the_coverage_down_to_nothing() -> None:
    picture = frame("yuv420p", 127, 97, seed=5)
    full = marker_coverage(picture, [outline(60, 48, 30)], MarkerStyle())
    half = marker_coverage(picture, [outline(60, 48, 30)], MarkerStyle(opacity=0.5))
    for a, b in zip(full, half, strict=True):
        np.testing.assert_allclose(b, a / 2, atol=1e-6)
    before = [values.copy() for values in components(picture)]
    draw_markers(picture, [outline(60, 48, 30)], MarkerStyle(opacity=0))
    draw_markers(picture, [], MarkerStyle())
    assert all((a == b).all() for a, b in zip(before, components(picture), strict=True))


def test_the_casing_is_dark_and_lies_on_both_sides_of_the_line() -> None:
    picture = frame("gray", 400, 400)
    raw(picture, 0)[:] = 220
    draw_markers(
        picture, [polygon((50, 200), (350, 200), (350, 390), (50, 390))], MarkerStyle(thickness=0.01, casing=0.01)
    )
    column = raw(picture, 0)[190:210, 200].astype(int)
    assert column[[0, -1]].tolist() == [220, 220]
    assert column[:7].min() < 110
    assert column[13:].min() < 110
    assert column[9:11].min() > 150
    assert (column == column[::-1]).all()


@pytest.mark.parametrize("name", ["rgb24", "bgr0", "yuyv422", "uyvy422", "rgba", "pal8", "ya8", "monow", "y210le"])
def test_packed_frames_are_refused_with_a_fix(name: str) -> None:
    assert not is_drawable(name)
    with pytest.raises(ConfigError, match=rf"cannot draw on {name}.*yuv420p"):
        draw_markers(av.VideoFrame(64, 48, name), [], MarkerStyle())


@pytest.mark.parametrize("name", ["", "no such format", "grayf32le", "gbrpf32le", "gray32le", "cuda", "bayer_bggr8"])
def test_other_formats_are_not_drawable(name: str) -> None:
    assert not is_drawable(name)


@formats
def test_planar_formats_are_drawable(name: str) -> None:
    assert is_drawable(name)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nothing_is_drawn_from_a_contour_that_is_not_finite(value: float) -> None:
    polyp = outline(60, 48, 30)
    polyp.contour[3, 1] = value
    picture = frame("yuv420p", 127, 97, seed=1)
    before = [values.copy() for values in components(picture)]
    with pytest.raises(ConfigError, match="not finite"):
        draw_markers(picture, [polyp], MarkerStyle())
    assert all((a == b).all() for a, b in zip(before, components(picture), strict=True))


@pytest.mark.parametrize(
    "wrong",
    [
        {"rgb": (0, 256, 0)},
        {"rgb": (0, 0)},
        {"thickness": -0.1},
        {"thickness": 0.5},
        {"casing": float("nan")},
        {"casing_opacity": 2},
        {"opacity": 1.1},
    ],
)
def test_a_style_out_of_range_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="marker"):
        MarkerStyle(**wrong)

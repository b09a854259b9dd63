"""Rendered frames are appended to the training images, from seeds that the demo does not use."""

import numpy as np

from polypstream.content import crop_of
from polypstream.synthetic import SyntheticClip, frame_at
from polypstream.train.data import Samples
from polypstream.train.rendered import FIRST_SEED, FRAMES_PER_SEED, SECONDS, with_rendered

NONE = Samples(pairs=(), rgb=np.empty((0, 96, 128, 3), np.uint8), masks=np.empty((0, 96, 128), np.uint8))
COUNT = 2 * FRAMES_PER_SEED


def test_frames_follow_the_images_and_show_what_their_masks_say() -> None:
    real = Samples(pairs=(), rgb=np.full((1, 96, 128, 3), 7, np.uint8), masks=np.ones((1, 96, 128), np.uint8))
    mixed = with_rendered(real, COUNT, crop="content")
    assert len(mixed.rgb) == len(mixed.masks) == 1 + COUNT
    assert (mixed.rgb[0] == 7).all()
    assert len(mixed.pairs) == COUNT
    assert mixed.masks.dtype == np.uint8
    assert set(np.unique(mixed.masks)) == {0, 1}
    for pair, mask in zip(mixed.pairs, mixed.masks[1:], strict=True):
        seed, index = map(int, pair.image.stem.split("-"))
        assert seed >= FIRST_SEED
        frame = frame_at(SyntheticClip(seed=seed, seconds=SECONDS, polyps=seed > FIRST_SEED), index)
        shown = crop_of(frame.rgb, "content").of(frame.mask)
        assert abs(mask.mean() - shown.mean()) < 0.01


def test_one_seed_in_five_has_no_polyp() -> None:
    masks = with_rendered(NONE, COUNT, crop="none").masks
    assert not masks[:FRAMES_PER_SEED].any()
    assert masks[FRAMES_PER_SEED:].any()


def test_fewer_frames_are_the_first_of_more() -> None:
    few, more = with_rendered(NONE, 2, crop="content"), with_rendered(NONE, 4, crop="content")
    assert few.pairs == more.pairs[:2]
    np.testing.assert_array_equal(few.rgb, more.rgb[:2])
    np.testing.assert_array_equal(few.masks, more.masks[:2])

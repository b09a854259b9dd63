import threading
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest

from polypstream.train.augment import Augmentation
from polypstream.train.batches import BatchSource, batches_ahead
from tests.discs import disc_samples

SOURCE = BatchSource(samples=disc_samples(10), batch_size=4, augmentation=Augmentation(), seed=3)


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("batches")]


def test_every_batch_has_one_shape_and_type() -> None:
    assert SOURCE.steps == 3
    for index in range(SOURCE.steps):
        rgb, mask = SOURCE.batch(0, index)
        assert rgb.shape == (4, 32, 32, 3)
        assert mask.shape == (4, 32, 32, 1)
        assert rgb.dtype == mask.dtype == np.float32
        assert 0 <= rgb.min() <= rgb.max() <= 1
        assert set(np.unique(mask)) <= {0, 1}


def test_an_epoch_holds_every_image() -> None:
    plain = Augmentation(**dict.fromkeys(vars(Augmentation()).keys() - {"style"}, 0))
    source = replace(SOURCE, augmentation=plain)
    seen = np.concatenate([source.batch(0, index)[0] for index in range(source.steps)])[:10]
    wanted = source.samples.rgb.astype(np.float32) / np.float32(255)
    assert sorted(image.tobytes() for image in seen) == sorted(image.tobytes() for image in wanted)


def test_a_set_smaller_than_a_batch_fills_it() -> None:
    assert replace(SOURCE, samples=disc_samples(3), batch_size=8).batch(0, 0)[0].shape == (8, 32, 32, 3)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 0.5])
def test_images_without_a_polyp_are_repeated_up_to_their_fraction(share: float) -> None:
    samples = disc_samples(40)
    samples.masks[:4] = 0
    plain = Augmentation(**dict.fromkeys(vars(Augmentation()).keys() - {"style"}, 0))
    source = replace(SOURCE, samples=samples, augmentation=plain, clean_share=share)
    seen = np.concatenate([source.batch(0, index)[1] for index in range(source.steps)])
    clean = np.mean(~seen.any(axis=(1, 2, 3)))
    assert clean == pytest.approx(max(share, 0.1), abs=0.07)  # the last batch is filled from the first
    assert seen.any(axis=(1, 2, 3)).sum() >= 36


def test_without_clean_images_an_epoch_is_unchanged() -> None:
    assert replace(SOURCE, clean_share=0.5).steps == SOURCE.steps


@pytest.mark.parametrize("workers", [1, 3])
def test_loading_ahead_changes_nothing(workers: int) -> None:
    with closing(batches_ahead(SOURCE, first_epoch=1, epochs=3, workers=workers, ahead=2)) as batches:
        loaded = list(batches)
    wanted = [SOURCE.batch(epoch, index) for epoch in (1, 2) for index in range(SOURCE.steps)]
    assert len(loaded) == len(wanted)
    for one, other in zip(loaded, wanted, strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])


def test_epochs_and_seeds_differ() -> None:
    first = SOURCE.batch(0, 0)[0]
    assert not np.array_equal(first, SOURCE.batch(1, 0)[0])
    assert not np.array_equal(first, replace(SOURCE, seed=4).batch(0, 0)[0])


def test_leaving_early_ends_the_threads() -> None:
    with closing(batches_ahead(SOURCE, first_epoch=0, epochs=50, workers=2)) as batches:
        next(batches)
        assert threads()
    assert not threads()


def test_exceptions_of_a_worker_are_raised() -> None:
    broken = replace(SOURCE, samples=replace(SOURCE.samples, rgb=SOURCE.samples.rgb[:2]))
    with pytest.raises(IndexError), closing(batches_ahead(broken, first_epoch=0, epochs=1, workers=1)) as batches:
        list(batches)
    assert not threads()

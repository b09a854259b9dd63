import keras
import numpy as np
import pytest
from keras import layers

from polypstream.train.averaging import averaged_weights, measure_statistics

BATCHES = [np.random.default_rng(seed).normal(seed, 2, (4, 8, 8, 3)).astype(np.float32) for seed in range(3)]


@pytest.fixture
def network() -> keras.Model:
    image = keras.Input((8, 8, 3))
    return keras.Model(image, layers.Conv2D(1, 1)(layers.BatchNormalization(name="norm")(image)))


@pytest.fixture
def trained(network: keras.Model) -> keras.Model:
    network.compile(keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5), loss="mse", jit_compile=False)
    for batch in BATCHES:
        network.train_on_batch(batch, batch[..., :1])
    return network


def values(model: keras.Model) -> list[np.ndarray]:
    return [np.array(keras.ops.convert_to_numpy(variable.value)) for variable in model.weights]


def test_statistics_are_the_means_over_the_batches(network: keras.Model) -> None:
    measure_statistics(network, BATCHES)
    norm = network.get_layer("norm")
    mean, variance = (keras.ops.convert_to_numpy(v.value) for v in (norm.moving_mean, norm.moving_variance))
    np.testing.assert_allclose(mean, np.mean([b.mean(axis=(0, 1, 2)) for b in BATCHES], axis=0), rtol=1e-4)
    np.testing.assert_allclose(variance, np.mean([b.var(axis=(0, 1, 2)) for b in BATCHES], axis=0), rtol=1e-2)
    assert norm.momentum == 0.99


def test_the_block_holds_the_average_and_leaves_no_trace(trained: keras.Model) -> None:
    before = values(trained)
    with averaged_weights(trained, trained, BATCHES):
        within = values(trained)
    assert not any(np.array_equal(one, other) for one, other in zip(before, within, strict=True))
    for one, other in zip(before, values(trained), strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_error_leaves_no_trace_either(trained: keras.Model) -> None:
    before = values(trained)
    with pytest.raises(KeyboardInterrupt), averaged_weights(trained, trained, BATCHES):
        raise KeyboardInterrupt
    for one, other in zip(before, values(trained), strict=True):
        np.testing.assert_array_equal(one, other)

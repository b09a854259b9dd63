import keras
import numpy as np
import pytest
from keras import layers

from polypstream.train.networks.registry import NETWORKS
from polypstream.train.networks.resunetpp import SUPERVISED_LAYERS, resunetpp
from polypstream.train.pytorch import with_fast_layers
from polypstream.train.recipe import AUXILIARY_WEIGHT, loss_weights, with_auxiliary_heads

FEW_OUTPUTS = (8,) * 5


@pytest.fixture(scope="module")
def network() -> keras.Model:
    return resunetpp()


@pytest.fixture(scope="module")
def narrow() -> keras.Model:
    return resunetpp(height=32, width=48, widths=FEW_OUTPUTS)


def test_parameters_at_the_default_widths(network: keras.Model) -> None:
    assert network.count_params() == 4_070_385
    assert sum(weight.size for weight in map(np.asarray, values(network.trainable_weights))) == 4_062_993


def values(weights: list[keras.Variable]) -> list[np.ndarray]:
    return [keras.ops.convert_to_numpy(weight.value) for weight in weights]


@pytest.mark.slow
def test_parameters_at_twice_the_width() -> None:
    assert resunetpp(widths=(32, 64, 128, 256, 512)).count_params() == 16_242_785


def test_input_and_output(network: keras.Model) -> None:
    assert network.input_shape == (None, 352, 352, 3)
    assert network.output_shape == (None, 352, 352, 1)


def test_a_non_square_image(narrow: keras.Model) -> None:
    image = np.random.default_rng(0).random((2, 32, 48, 3), np.float32)
    probability = narrow.predict_on_batch(image)
    assert probability.shape == (2, 32, 48, 1)
    assert probability.dtype == np.float32
    assert (probability > 0).all()
    assert (probability < 1).all()


def test_the_same_weights_serve_every_size(narrow: keras.Model) -> None:
    open_sized = resunetpp(height=None, width=None, widths=FEW_OUTPUTS)
    open_sized.set_weights(narrow.get_weights())
    image = np.random.default_rng(0).random((1, 32, 48, 3), np.float32)
    np.testing.assert_allclose(open_sized(image), narrow(image), atol=1e-6)
    assert open_sized(image[:, :16, :24]).shape == (1, 16, 24, 1)


@pytest.mark.parametrize("part", ["bridge", "head"])
@pytest.mark.parametrize("dilation", [6, 12, 18, 1])
def test_the_pyramids_have_four_dilations(network: keras.Model, part: str, dilation: int) -> None:
    conv = network.get_layer(f"{part}_dilation{dilation}_conv")
    assert conv.dilation_rate == (dilation, dilation)
    assert conv.kernel_size == (3, 3)
    assert isinstance(network.get_layer(f"{part}_add"), layers.Add)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("encoder1", (352, 352, 16)),
        ("encoder2", (176, 176, 32)),
        ("encoder3", (88, 88, 64)),
        ("encoder4", (44, 44, 128)),
        ("bridge", (44, 44, 256)),
        ("decoder3_attention", (44, 44, 256)),
        ("decoder3", (88, 88, 128)),
        ("decoder2", (176, 176, 64)),
        ("decoder1", (352, 352, 32)),
        ("head", (352, 352, 16)),
    ],
)
def test_every_stage_has_its_size(network: keras.Model, name: str, shape: tuple[int, ...]) -> None:
    assert network.get_layer(name).output.shape[1:] == shape


def test_the_gates_are_unbounded(network: keras.Model) -> None:
    sigmoids = [
        layer.name for layer in network.layers if getattr(layer, "activation", None) is keras.activations.sigmoid
    ]
    assert all(name == "probability" or name.endswith("_excite") for name in sigmoids)
    assert len(sigmoids) == 8  # seven squeeze-and-excitation blocks and the output


def test_squeezes_divide_by_8_without_bias(network: keras.Model) -> None:
    squeezes = [layer for layer in network.layers if layer.name.endswith("_squeeze")]
    assert [layer.units for layer in squeezes] == [2, 4, 8, 16, 16, 8, 4]
    assert not any(layer.use_bias for layer in squeezes)


def test_upsampling_is_nearest(network: keras.Model) -> None:
    upsamplings = [layer for layer in network.layers if isinstance(layer, layers.UpSampling2D)]
    assert [layer.interpolation for layer in upsamplings] == ["nearest"] * 3


def test_shortcuts_are_projected_by_1x1(network: keras.Model) -> None:
    shortcuts = [layer for layer in network.layers if layer.name.endswith("_shortcut_conv")]
    assert len(shortcuts) == 7
    assert {layer.kernel_size for layer in shortcuts} == {(1, 1)}
    assert [layer.strides[0] for layer in shortcuts] == [1, 2, 2, 2, 1, 1, 1]


def test_the_output_stays_float32_in_mixed_precision() -> None:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        mixed = resunetpp(height=16, width=16, widths=FEW_OUTPUTS)
    finally:
        keras.config.set_dtype_policy(before)
    assert mixed.get_layer("probability").compute_dtype == "float32"
    assert mixed.get_layer("encoder1_conv1").compute_dtype == "bfloat16"


@pytest.mark.parametrize(("height", "width"), [(100, 96), (96, 100)])
def test_a_side_that_is_not_a_multiple_of_8_is_refused(height: int, width: int) -> None:
    with pytest.raises(ValueError, match="multiples of 8"):
        resunetpp(height=height, width=width)


def test_five_widths_are_needed() -> None:
    with pytest.raises(ValueError, match="five"):
        resunetpp(widths=(16, 32, 64, 128))


def test_auxiliary_heads_share_the_network_and_add_little(narrow: keras.Model) -> None:
    supervised = with_auxiliary_heads(narrow, SUPERVISED_LAYERS)
    assert [output.shape[1:3] for output in supervised.outputs] == [(32, 48), (4, 6), (8, 12), (16, 24), (32, 48)]
    assert supervised.count_params() == narrow.count_params() + len(SUPERVISED_LAYERS) * (8 + 1)
    assert supervised.get_layer("bridge") is narrow.get_layer("bridge")


def test_the_output_weighs_1_and_each_auxiliary_head_less() -> None:
    assert loss_weights(SUPERVISED_LAYERS) == [1.0, *[AUXILIARY_WEIGHT] * 4]


def test_fusing_does_not_change_other_backends(narrow: keras.Model) -> None:
    if keras.backend.backend() == "torch":
        pytest.skip("PyTorch is the backend that it is for")
    assert with_fast_layers(narrow) is narrow


@pytest.mark.parametrize(
    ("name", "parameters", "trainable"),
    [
        ("unet", 1_946_993, 1_944_049),
        ("resunet", 2_081_937, 2_077_073),
        ("resunetpp", 4_070_385, 4_062_993),
        ("resunetpp-r50", 8_368_353, 8_336_161),
    ],
)
def test_every_network_has_its_parameters(name: str, parameters: int, trainable: int) -> None:
    built = NETWORKS[name].build(height=352, width=352, widths=NETWORKS[name].widths)
    assert built.name == name.replace("-", "_")
    assert built.count_params() == parameters
    assert sum(value.size for value in values(built.trainable_weights)) == trainable


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_follows_the_protocol(name: str) -> None:
    architecture = NETWORKS[name]
    height, width = 64, 96
    built = architecture.build(height=height, width=width, widths=FEW_OUTPUTS)
    probability = built.predict_on_batch(np.random.default_rng(0).random((2, height, width, 3), np.float32))
    assert probability.shape == (2, height, width, 1)
    assert 0 < probability.min() <= probability.max() < 1
    supervised = with_auxiliary_heads(built, architecture.supervised_layers)
    heights = [output.shape[1] for output in supervised.outputs[1:]]
    assert heights == sorted(heights)
    assert (heights[0], heights[-1]) == (height // architecture.multiple, height // (4 if architecture.encoder else 1))
    with pytest.raises(ValueError, match=f"multiples of {architecture.multiple}"):
        architecture.build(height=64, width=64 + architecture.multiple // 2, widths=FEW_OUTPUTS)
    with pytest.raises(ValueError, match="five"):
        architecture.build(height=32, width=32, widths=FEW_OUTPUTS[:4])


@pytest.mark.parametrize("name", ["unet", "resunet"])
def test_the_baselines_have_no_attention_no_squeeze_and_no_dilation(name: str) -> None:
    built = NETWORKS[name].build(height=32, width=32, widths=FEW_OUTPUTS)
    convs = [layer for layer in built.layers if isinstance(layer, layers.Conv2D)]
    assert {conv.dilation_rate for conv in convs} == {(1, 1)}
    assert not [layer for layer in built.layers if isinstance(layer, layers.Dense | layers.Multiply)]


def test_the_residual_baseline_strides_where_the_other_pools() -> None:
    pooled, strided = (NETWORKS[name].build(height=32, width=32, widths=FEW_OUTPUTS) for name in ("unet", "resunet"))
    pools = [layer.name for layer in pooled.layers if isinstance(layer, layers.MaxPooling2D)]
    assert pools == [f"encoder{stage}_pool" for stage in (1, 2, 3, 4)]
    assert not [layer for layer in strided.layers if isinstance(layer, layers.MaxPooling2D)]
    units = ("encoder2", "encoder3", "encoder4", "bridge")
    assert [strided.get_layer(f"{unit}_conv1").strides for unit in units] == [(2, 2)] * 4

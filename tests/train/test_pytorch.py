"""The layers for faster training, compared with Keras' own in a process whose Keras runs on PyTorch."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

pytestmark = pytest.mark.skipif(find_spec("torch") is None, reason="PyTorch is not installed")

COMMON = """
import itertools, json, sys
import keras
import numpy as np
import torch
from polypstream.train.networks.registry import NETWORKS
from polypstream.train.pytorch import with_fast_layers

keras.utils.set_random_seed(1)

def difference(network, fast, shape):
    both = [outcome(each, shape) for each in (network, fast)]
    return max(float((a - b).norm() / a.norm()) for a, b in zip(*both))

def outcome(network, shape):
    x = torch.from_numpy(np.random.default_rng(0).random(shape, np.float32)).requires_grad_()
    while_training = network(x, training=True).float()
    weights = [x, *(weight.value for weight in network.trainable_weights)]
    gradients = torch.autograd.grad((while_training ** 2).sum(), weights)
    gradients = torch.cat([gradient.flatten().float() for gradient in gradients])  # some of them are zero
    return while_training.detach(), network(x, training=False).detach().float(), gradients
"""

LAYERS = """
differences = {}
shape = (2, 13, 16, 16)  # with fewer channels, PyTorch 2.13 damages its heap
for kind, precision, kernel, stride, dilation, padding in itertools.product(
    (keras.layers.Conv2D, keras.layers.DepthwiseConv2D), ("float32", "mixed_bfloat16"), (1, 3, 5), (1, 2), (1, 3),
    ("same", "valid"),
):
    if (stride > 1 and dilation > 1) or (padding == "valid" and dilation * (kernel - 1) >= 12):
        continue
    keras.config.set_dtype_policy(precision)
    image = keras.Input(shape[1:])
    options = {"strides": stride, "dilation_rate": dilation, "padding": padding, "bias_initializer": "normal"}
    options["use_bias"] = kind is keras.layers.Conv2D
    layer = kind(*([16] if options["use_bias"] else []), kernel, activation="tanh" if kernel == 5 else None, **options)
    network = keras.Model(image, layer(image))
    fast = with_fast_layers(network)
    assert type(fast.layers[-1]).__name__ == "Fast" + kind.__name__
    key = f"{kind.__name__} {precision} {kernel} {stride} {dilation} {padding}"
    differences[key] = difference(network, fast, shape)
print(json.dumps(differences))
"""

NETWORKS = """
differences = {}
for name in ("unet", "resunet", "resunetpp", "resunetpp-lite0"):
    network = NETWORKS[name].build(height=96, width=64, widths=NETWORKS[name].widths)
    fast = with_fast_layers(network)
    assert {type(layer).__name__ for layer in fast.layers} >= {"FastConv2D", "FusedBatchNormalization"}
    differences[name] = difference(network, fast, (2, 96, 64, 3))
print(json.dumps(differences))
"""


def differences(script: str) -> dict[str, float]:
    """Largest relative difference of outputs and gradients, by case."""
    ran = subprocess.run(
        [sys.executable, "-c", COMMON + script],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"KERAS_BACKEND": "torch"},
    )
    assert ran.returncode == 0, ran.stderr
    return dict(json.loads(ran.stdout.splitlines()[-1]))


def test_fast_layers_compute_what_those_of_keras_compute() -> None:
    found = differences(LAYERS)
    assert len(found) > 40
    assert {case: value for case, value in found.items() if value > (0.02 if "bfloat16" in case else 1e-5)} == {}


def test_networks_with_fast_layers_have_the_same_outputs_and_gradients() -> None:
    assert {name: value for name, value in differences(NETWORKS).items() if value > 0.05} == {}

"""Classifiers by name. Every one returns its penultimate features and its logits."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from miue_jax import _checks
from miue_jax.models.convolution import conv_general_dilated
from miue_jax.models.densenet import DenseNet
from miue_jax.models.lenet import LeNet5
from miue_jax.models.mlp import MLP, Linear
from miue_jax.models.mobilenet import MobileNetV2
from miue_jax.models.resnet import ResNet
from miue_jax.models.vgg import VGG
from miue_jax.models.vit import VisionTransformer
from miue_jax.models.wide_resnet import WideResNet

_BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "resnet18": ResNet,
    "resnet34": functools.partial(ResNet, stage_sizes=(3, 4, 6, 3)),
    "resnet50": functools.partial(ResNet, stage_sizes=(3, 4, 6, 3), bottleneck=True),
    "resnet10": functools.partial(ResNet, stage_sizes=(1, 1, 1, 1), width=16),
    "vgg11": VGG,
    "vgg19": functools.partial(VGG, stage_sizes=(2, 2, 4, 4, 4)),
    "densenet121": DenseNet,
    "wrn28_10": WideResNet,
    "mobilenet_v2": MobileNetV2,
    "vit": VisionTransformer,
    "lenet5": LeNet5,
    "mlp2": MLP,
    "mlp3": functools.partial(MLP, layers=3),
    "linear": Linear,
}

NAMES: tuple[str, ...] = tuple(_BUILDERS)


def create(
    name: str,
    *,
    num_classes: int,
    width: int | None = None,
    dtype: Any = jnp.float32,
    axis_name: str | None = None,
    convolution: Callable[..., jax.Array] = conv_general_dilated,
) -> nn.Module:
    """Makes a classifier.

    Called as ``module.apply(variables, images, train=False)`` with images (B, H, W, C)
    in [0, 1], it returns features (B, D) and logits (B, num_classes), both float32.
    Stage outputs are sown in the collection ``intermediates``.

    Residual, wide residual and dense networks keep the stem of small images, a 3x3
    convolution of stride one without pooling, at every size: at 224x224 their first
    stage works at full resolution, and a step takes 49 times as long as at 32x32.

    Args:
      name: one of `NAMES`.
      num_classes: number of logits, at least 2.
      width: what the network counts its channels in (see its class); None for the
        published one.
      dtype: compute dtype; parameters and batch statistics stay float32.
      axis_name: mapped axis (shard_map, pmap) over which batch normalization takes its
        statistics; networks without it have no use for this.
      convolution: stands in for `lax.conv_general_dilated`.

    Returns:
      The module, hashable and without parameters.

    Raises:
      ValueError: for an unknown name, fewer than two classes or a width that is not
        positive or that the network does not have.
    """
    if name not in _BUILDERS:
        raise _checks.unknown("model", name, NAMES)
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, given {num_classes}")
    options = {"dtype": dtype, "axis_name": axis_name, "convolution": convolution}
    if width is not None:
        if width < 1:
            raise ValueError(f"width must be at least 1, given {width}")
        options["width"] = width
    builder = _BUILDERS[name]
    kind: Any = builder.func if isinstance(builder, functools.partial) else builder
    fields = {field.name for field in dataclasses.fields(kind)}
    if width is not None and "width" not in fields:
        raise ValueError(f"model {name!r} has no width, given {width}")
    # Networks without normalization or convolutions lack the matching fields.
    return builder(
        num_classes=num_classes,
        **{key: value for key, value in options.items() if key in fields},
    )

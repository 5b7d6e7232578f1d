"""Classifiers by name, which return their penultimate features and their logits.

A user-defined model is named ``module:function``. The function is called with the
keyword ``num_classes`` and those of ``width``, ``dtype``, ``axis_name`` and
``convolution`` that it has, and returns a Flax module that maps images (B, H, W, C) in
[0, 1] and the keyword ``train`` to features (B, D) and logits (B, num_classes).
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from miue_jax import _checks, _own
from miue_jax._own import is_own
from miue_jax.models.convolution import loop_convolution
from miue_jax.models.densenet import DenseNet
from miue_jax.models.lenet import LeNet5
from miue_jax.models.mlp import MLP, Linear
from miue_jax.models.mobilenet import MobileNetV2
from miue_jax.models.resnet import ResNet
from miue_jax.models.vgg import VGG
from miue_jax.models.vit import VisionTransformer
from miue_jax.models.wide_resnet import WideResNet

__all__ = ["NAMES", "check_own", "create", "is_own", "loop_convolution"]

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
    convolution: Callable[..., jax.Array] | None = None,
) -> nn.Module:
    """Creates a classifier.

    Called as ``module.apply(variables, images, train=False)`` with images (B, H, W, C)
    in [0, 1], it returns features (B, D) and logits (B, num_classes), both float32.
    Stage outputs are sown in the collection ``intermediates``.

    Residual, wide residual and dense networks keep the stem of small images, a 3x3
    convolution of stride one without pooling, at every size: at 224x224 their first
    stage works at full resolution, and a step takes 49 times as long as at 32x32.

    Args:
      name: one of `NAMES`, or module:function.
      num_classes: number of logits, at least 2.
      width: the unit in which the network counts its channels (see its class); None for
        the published one.
      dtype: compute dtype; parameters and batch statistics stay float32.
      axis_name: mapped axis (shard_map, pmap) over which batch normalization takes its
        statistics; networks without batch normalization ignore it.
      convolution: replaces `lax.conv_general_dilated`; pass `loop_convolution` where
        gradients are taken inside loops on the CPU.

    Returns:
      The module, hashable and without parameters.

    Raises:
      ValueError: for an unknown name, fewer than two classes, a width that is not
        positive or that the network does not have, or a user-defined function that
        fails or returns something else.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from miue_jax import models
      >>> net = models.create("lenet5", num_classes=10)
      >>> images = jnp.zeros((2, 32, 32, 3))
      >>> variables = net.init(jax.random.key(0), images, train=False)
      >>> features, logits = net.apply(variables, images, train=False)
      >>> features.shape, logits.shape
      ((2, 84), (2, 10))
    """
    own = is_own(name)
    if not own and (not isinstance(name, str) or name not in _BUILDERS):
        raise _checks.unknown("model", name, NAMES)
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, given {num_classes}")
    if width is not None and width < 1:
        raise ValueError(f"width must be at least 1, given {width}")
    options = {
        "width": width,
        "dtype": dtype,
        "axis_name": axis_name,
        "convolution": convolution or lax.conv_general_dilated,
    }
    builder = _own.imported("model", name) if own else _BUILDERS[name]
    accepted = _accepted(name, builder)
    if width is None:
        options.pop("width")
    elif "width" not in accepted:
        raise ValueError(f"model {name!r} has no width, given {width}")
    # Networks without normalization or convolutions lack the matching fields.
    options = {key: value for key, value in options.items() if key in accepted}
    if not own:
        return builder(num_classes=num_classes, **options)
    with _own.calling(f"model {name!r}"):
        module = builder(num_classes=num_classes, **options)
        if not isinstance(module, nn.Module):
            raise ValueError(
                f"it must return a Flax module, got {_checks.shown(module)}"
            )
    return module


def check_own(
    name: str, *, image_shape: tuple[int, ...], num_classes: int, width: int | None
) -> None:
    """Traces a user-defined model, so that its faults are found before a run.

    Args:
      name: of the model; others than ``module:function`` are not traced.
      image_shape: (H, W, C) of the images that it has to take.
      num_classes: number of classes.
      width: as for `create`.

    Raises:
      ValueError: if the model fails, or does not return features and logits.

    Example:
      >>> from miue_jax import models
      >>> models.check_own(
      ...     "resnet10", image_shape=(8, 8, 3), num_classes=2, width=None
      ... )
    """
    if not is_own(name):
        return
    module = create(name, num_classes=num_classes, width=width)
    images = jnp.zeros((2, *image_shape), jnp.float32)
    key = jax.random.key(0)
    with _own.calling(f"model {name!r}"):
        variables = jax.eval_shape(
            functools.partial(module.init, train=False), key, images
        )
        changing = [name for name in variables if name != "params"]
        for train in (False, True):
            result, _ = jax.eval_shape(
                functools.partial(module.apply, train=train, mutable=changing),
                variables,
                images,
            )
            _check_outputs(result, len(images), num_classes)


def _check_outputs(result: Any, batch: int, num_classes: int) -> None:
    fits = isinstance(result, tuple) and len(result) == 2
    if fits:
        shapes = [getattr(x, "shape", None) for x in result]
        fits = shapes[1] == (batch, num_classes) and all(
            shape is not None
            and len(shape) == 2
            and shape[0] == batch
            and jnp.issubdtype(x.dtype, jnp.floating)
            for x, shape in zip(result, shapes, strict=True)
        )
    if not fits:
        raise ValueError(
            "it must return (features, logits), floating point of shapes "
            f"({batch}, D) and ({batch}, {num_classes}) for {batch} images, got "
            f"{_checks.shown(result)}"
        )


def _accepted(name: str, builder: Callable[..., nn.Module]) -> set[str]:
    if name in _BUILDERS:
        kind: Any = builder.func if isinstance(builder, functools.partial) else builder
        return {field.name for field in dataclasses.fields(kind)}
    parameters = inspect.signature(builder).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return {"width", "dtype", "axis_name", "convolution"}
    return {p.name for p in parameters}

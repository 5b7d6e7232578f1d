"""Generators, defenses, victims and seeds of a matrix, by preset.

The argument names the preset, `cifar10_cpu` when left out:

    python experiments/matrix.py --config experiments/configs/matrix.py:cifar10_cpu \
        --config.data.name_or_path=DIR --config.test.name_or_path=DIR \
        --workdir runs/matrix --devices=2

DIR is CIFAR-10: `cifar10` (TFDS), an image folder, the original binary archive or a
.npz file of its arrays. `cifar10_cpu` has 5,000 training and 5,000 test images, a
ResNet-10 of width 16 as surrogate and as victim, ten epochs in batches of 32: about two
minutes of one core for a victim without costly defense. Generators that train a
surrogate are cut down to some tens of passes over the data; they are far from their
published strength, and comparisons hold for this budget only. `cifar10_gpu` is the
published setting: ResNet-18, all images of the data, generators as published but for
AP, which takes one restart of its eight, in bfloat16, SEP as its paper has it, and all
perturbations rounded to gray levels; victims train by EM's protocol,
behind adversarial training by MI-UE's and behind UEraser by its own; not run yet. It
takes any data.

The EM of the cells with several seeds is the interleaved one, by far the stronger in as
many passes. `--config.data_name` says in the tables what the data are.

Blocks say which cells run, in the order of `order`, the most informative ones first;
None stands for all. To run others, override them:
`--config.order="('first',)" --config.blocks.first.methods="('clean','pil')"`.
"""

import dataclasses
from typing import Any

from configs.generate import as_config
from ml_collections import ConfigDict, config_dict

from miue_jax import _checks, generators
from miue_jax.victims import presets


def get_config(argument: str = "cifar10_cpu") -> ConfigDict:
    """Returns the configuration of a matrix.

    Args:
      argument: name of the preset.

    Returns:
      The configuration.

    Raises:
      ValueError: if there is no such preset.
    """
    if argument not in _PRESETS:
        raise _checks.unknown("preset", argument, _PRESETS)
    return ConfigDict(_PRESETS[argument]())


def _cifar10_cpu() -> dict[str, Any]:
    small = {"model": "resnet10"}
    attack = {**small, "epochs": 10, "pgd_steps": 30, "step_size": 1.0}
    interleaved = {**small, "epochs": 15}
    # The cheap and the strong ones first.
    generators = {
        "clean": config_dict.placeholder(dict),
        "mi_ue_interleaved": method("mi_ue", "interleaved", **interleaved),
        "em_interleaved": method("error_minimizing", "interleaved", **interleaved),
        **_surrogate_free(),
        # As many batches as published; longer steps of the classifier diverge.
        "pil": method("perturbation_linear", epochs=300),
        "random_noise": method("random_noise"),
        "ap": method("adversarial_poisoning", "targeted", **attack, restarts=1),
        # Three epochs of training and thirty steps on every image.
        "mi_ue_authors": method("mi_ue", "authors_code", **small, epochs=3),
        "em": method("error_minimizing", "plain", **small, epochs=3),
        "ntga": method("neural_tangent", block_size=128, validation_size=512),
        "sem": method(
            "robust_error_minimizing",
            "sem",
            **small,
            iterations=240,
            learning_rate_drop_every=100,
            pgd_steps=4,
            step_size=3.0,
            transformations=2,
        ),
        "sep": method(
            "self_ensemble",
            "variance_reduced",
            **{**attack, "pgd_steps": 6, "step_size": 3.0},
            checkpoints=3,
            inner_steps=3,
        ),
        "hypo": method(
            "hypocritical",
            **{**attack, "epochs": 3, "pgd_steps": 20},
            train_pgd_steps=2,
        ),
        "rem": method(
            "robust_error_minimizing",
            "rem",
            **small,
            iterations=200,
            learning_rate_drop_every=80,
            pgd_steps=3,
            step_size=4.0,
            transformations=1,
            adversarial_steps=2,
            adversarial_step_size=2.0,
        ),
    }
    rows = tuple(generators)
    depth = (
        *("clean", "em_interleaved", "ap", "rem", "pil"),
        *("mi_ue_authors", "mi_ue_interleaved"),
    )
    # In 390 batches of 128 a victim does not find what OPS, LSP and PIL offer it.
    victim = dataclasses.replace(
        presets.PROTOCOLS["quick"], epochs=10, batch_size=32, learning_rate=0.05
    )
    adversarial = {
        "name": "adversarial_training",
        "num_steps": 3,
        "protocol": "miue",
        "eval_steps": 10,
    }
    test = {**_data("test"), "per_class": 500}
    return {
        **_common(test=test),
        "data": {**_data("train"), "per_class": 500},
        "methods": generators,
        "defenses": {
            "none": "none",
            "jpeg_10": "jpeg-10",
            "grayscale": "grayscale",
            "jpeg_50": "jpeg-50",
            "bit_depth_2": "bit_depth-2",
            "cutout": "cutout",
            "cutmix": "cutmix",
            # As many steps as published.
            "orthogonal_projection": {"name": "orthogonal_projection", "epochs": 200},
            "at_2": {**adversarial, "radius": 2, "step_size": 1.0},
            "at_8": {**adversarial, "radius": 8, "step_size": 4.0},
            "ueraser": "ueraser",
        },
        "victims": {"resnet10": as_config(victim)},
        "order": (
            *("first", "squeezed", "trained", "depth", "breadth", "trained_depth"),
        ),
        "blocks": {
            "first": block(rows, ("none",)),
            "squeezed": block(rows, ("jpeg_10", "grayscale")),
            "depth": block(depth, ("none", "jpeg_10"), seeds=(1, 2)),
            "trained": block(depth, ("at_2", "ueraser", "at_8")),
            "breadth": block(
                rows,
                (
                    *("jpeg_50", "bit_depth_2", "cutout", "cutmix"),
                    "orthogonal_projection",
                ),
            ),
            "trained_depth": block(depth, ("at_2", "ueraser", "at_8"), seeds=(1, 2)),
        },
        # In epochs: the 5,000 test images cost a third of training an epoch.
        "evaluate_every": 2,
    }


def _cifar10_gpu() -> dict[str, Any]:
    fast = {"dtype": "bfloat16"}
    victims = {
        "resnet18": "em",
        # Adversarial training and UEraser take longer than others.
        "resnet18_adversarial": "authors_adversarial",
        "resnet18_ueraser": "ueraser",
    }
    plain, adversarial, erasing = ((name,) for name in victims)
    generators = {
        "clean": config_dict.placeholder(dict),
        "mi_ue_authors": method("mi_ue", "authors_code", **fast),
        "mi_ue_interleaved": method("mi_ue", "interleaved", **fast),
        "em": method("error_minimizing", "published", **fast),
        "em_interleaved": method("error_minimizing", "interleaved", **fast),
        "ap": method("adversarial_poisoning", "targeted", **fast, restarts=1),
        "sem": method("robust_error_minimizing", "sem", **fast),
        "rem": method("robust_error_minimizing", "rem", **fast),
        "sep": method("self_ensemble", "variance_reduced", **fast),
        "hypo": method("hypocritical", **fast),
        "ntga": method("neural_tangent"),
        **_surrogate_free(),
    }
    rows = tuple(generators)
    return {
        **_common(test=_data("test")),
        "data": _data("train"),
        "methods": generators,
        "defenses": {
            "none": "none",
            "jpeg_10": "jpeg-10",
            "grayscale": "grayscale",
            "at_4": "adversarial_training-4",
            "ueraser": "ueraser",
        },
        "victims": {
            name: as_config(
                dataclasses.replace(presets.PROTOCOLS[protocol], dtype="bfloat16")
            )
            for name, protocol in victims.items()
        },
        "order": ("first", "adversarial", "erasing", "seeds"),
        "blocks": {
            "first": block(rows, ("none", "jpeg_10", "grayscale"), victims=plain),
            "adversarial": block(rows, ("at_4",), victims=adversarial),
            "erasing": block(rows, ("ueraser",), victims=erasing),
            "seeds": block(rows, ("none", "jpeg_10"), seeds=(1, 2), victims=plain),
        },
        "evaluate_every": 2,
    }


_PRESETS = {"cifar10_cpu": _cifar10_cpu, "cifar10_gpu": _cifar10_gpu}


def method(
    name: str, preset: str | None = None, *, export: str = "round", **changes: Any
) -> ConfigDict:
    """A row of a matrix: a generator's preset, some settings of which are others.

    Args:
      name: of the generator.
      preset: its name, the generator's first if left out.
      export: how the perturbation becomes whole gray levels, see `quantize` in
        miue_jax/gray_levels.py.
      **changes: the settings that differ, by name.

    Returns:
      What `methods` of the configuration holds.

    Raises:
      ValueError: if a name is unknown or a setting is not allowed.
    """
    settings = dataclasses.replace(generators.preset(name, preset), **changes)
    row = ConfigDict({"name": name, "export": export})
    row.update(as_config(settings))
    return row


def _surrogate_free() -> dict[str, Any]:
    return {
        "pil": method("perturbation_linear"),
        "lsp": method("linear_synthetic"),
        "ar": method("autoregressive"),
        "ops": method("one_pixel"),
        "cuda": method("convolution_filter"),
    }


def block(
    rows: tuple[str, ...],
    columns: tuple[str, ...],
    seeds: tuple[int, ...] = (0,),
    victims: tuple[str, ...] | None = None,
) -> dict[str, Any]:
    """A part of a matrix: all cells of some rows and columns.

    Args:
      rows: names of methods.
      columns: names of defenses.
      seeds: of the victims.
      victims: names of victims; None for all that there are. Those of `cifar10_gpu` but
        `resnet18` belong to defenses.

    Returns:
      What `blocks` of the configuration holds.
    """
    return {
        "methods": rows,
        "defenses": columns,
        "victims": config_dict.placeholder(tuple) if victims is None else victims,
        "seeds": seeds,
    }


def _data(split: str) -> dict[str, Any]:
    return {
        "name_or_path": "cifar10",
        "split": split,
        "per_class": config_dict.placeholder(int),
        "seed": 0,
        "data_dir": config_dict.placeholder(str),
    }


def _common(test: dict[str, Any]) -> dict[str, Any]:
    return {
        # In the tables; the name or path of the data when left out.
        "data_name": config_dict.placeholder(str),
        "test": test,
        "generator_seed": 0,
        # Of the data of every cell; those of a process's devices when left out.
        "num_shards": config_dict.placeholder(int),
    }

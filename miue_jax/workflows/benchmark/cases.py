"""The cases of the benchmark by name, and who does the work of each."""

from collections.abc import Mapping
from typing import Any, NamedTuple

# This library in a table of results, and an older build of it.
OURS, BEFORE = "miue_jax", "before"


class Side(NamedTuple):
    """One way to do the work of a case.

    Attributes:
      make: "module:function" of this package, called with the parameters of the case.
      package: what has to be installed; None for this library.
      options: parameters of this side alone.
    """

    make: str
    package: str | None = None
    options: Mapping[str, Any] = {}


class Case(NamedTuple):
    """Work that is timed.

    Attributes:
      title: what is done, for the table.
      sides: by name; the first is this library.
      parameters: of the work.
      small: those that differ where a trial of all cases must not take long.
      alone: whether each side has a process of its own, whose memory is measured.
      cold: whether compiled programs must not come from a cache.
      accelerator: whether it is for accelerators only.
    """

    title: str
    sides: Mapping[str, Side]
    parameters: Mapping[str, Any]
    small: Mapping[str, Any]
    alone: bool = False
    cold: bool = False
    accelerator: bool = False


def _networks() -> dict[str, Case]:
    found = {}
    tiny = {"width": 4, "batch_size": 8, "steps": 1}
    sizes = [
        *[(model, 16, 128, "float32") for model in ("resnet18", "resnet10")],
        ("resnet18", 64, 128, "float32"),
        *[("resnet18", 64, size, "bfloat16") for size in (128, 1024)],
    ]
    for model, width, batch_size, dtype in sizes:
        half = dtype == "bfloat16"
        name = f"{model}_w{width}" + (f"_b{batch_size}_{dtype}" if half else "")
        parameters = {
            **{"model": model, "width": width, "batch_size": batch_size},
            **{"dtype": dtype, "steps": None},
        }
        for kind, words in (("train", "training"), ("perturb", "perturbation")):
            options = {"kind": kind}
            # Beside bfloat16 stand what a script does first, and the best it can do.
            peers = {
                "pytorch": Side(
                    "_pytorch:step", "torch", {**options, "dtype": "float32"}
                ),
                "torch_compile": Side(
                    "_pytorch:step", "torch", {**options, "compiled": True}
                ),
            }
            found[f"{kind}_{name}"] = Case(
                f"{words} step, {model} of width {width}, {batch_size} images, {dtype}",
                {OURS: Side("_networks:step", None, options), **peers},
                parameters,
                tiny,
                accelerator=half,
            )
    return found


def _losses() -> dict[str, Case]:
    found = {}
    for size in (128, 2048, 16384, 65536):
        found[f"mi_ue_{size}"] = Case(
            f"gradient of mi_ue_loss, {size:,} x 512",
            {
                OURS: Side("_losses:mi_ue"),
                "pytorch": Side("_pytorch:mi_ue", "torch"),
            },
            {"batch_size": size, "dim": 512},
            {"batch_size": 40, "dim": 8},
            alone=size >= 16384,
            accelerator=size == 65536,
        )
    for statistic in ("logdet", "trace"):
        for size in (128, 2048):
            found[f"covariance_{statistic}_{size}"] = Case(
                f"gradient of conditional_covariance_loss, {statistic}, {size:,} x 512",
                {
                    OURS: Side("_losses:covariance"),
                    "pytorch": Side("_pytorch:covariance", "torch"),
                },
                {"batch_size": size, "dim": 512, "statistic": statistic},
                {"batch_size": 40, "dim": 8},
            )
    return found


def _neighbors() -> dict[str, Case]:
    peers = {
        "scikit_learn": Side("_neighbors:scikit_learn", "sklearn"),
        "scipy": Side("_neighbors:scipy_tree", "scipy"),
        "infomeasure": Side("_neighbors:infomeasure", "infomeasure"),
    }
    found = {}
    for size, dim, names in (
        (20000, 2, ("scipy",)),
        (5000, 1, ("scikit_learn", "scipy")),
        (5000, 16, ("infomeasure",)),
        (10000, 32, ("infomeasure",)),
    ):
        found[f"ksg_{size}_{dim}"] = Case(
            f"ksg, {size:,} samples, {dim} dimension{'s' * (dim > 1)}",
            {OURS: Side("_neighbors:ours"), **{name: peers[name] for name in names}},
            {"size": size, "dim": dim},
            {"size": 200},
        )
    return found


CASES: dict[str, Case] = {
    **_networks(),
    **_losses(),
    "second_order_conv64": Case(
        "first jitted second-order gradient of a convolution of 64 channels",
        {OURS: Side("_second_order:ours"), "lax": Side("_second_order:lax")},
        {"channels": 64, "batch_size": 8, "side": 16},
        {"channels": 4, "batch_size": 2, "side": 8},
        cold=True,
    ),
    "ssim_512": Case(
        "SSIM of four pictures of 512x512",
        {
            OURS: Side("_similarity:ours"),
            "scikit_image": Side("_similarity:scikit_image", "skimage"),
        },
        {"pictures": 4, "side": 512},
        {"pictures": 2, "side": 40},
    ),
    **_neighbors(),
}

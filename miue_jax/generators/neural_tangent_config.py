"""The settings of NTGA."""

import dataclasses

from miue_jax._checks import check_choice, check_number
from miue_jax.generators.surrogate import check_radius

_NETWORKS = ("cnn", "fnn")


@dataclasses.dataclass(frozen=True, kw_only=True)
class NeuralTangentConfig:
    """Settings of NTGA.

    Attributes:
      radius: largest change of a channel, in gray levels.
      step_size: of projected gradient, in gray levels.
      pgd_steps: projected-gradient steps on a block.
      network: "cnn", two convolutions and three dense layers, or "fnn", five layers of
        the error function.
      weight_variance: of the network at initialization, times the inputs of a neuron.
      bias_variance: of the network at initialization.
      time: learning rate times steps of the gradient descent on a block whose result
        is attacked.
      regularization: added to the diagonal of a block's kernel, relative to its mean.
      block_size: images that are perturbed together, as one training set.
      validation_size: images on which that training is judged, for each block others.
      rows_at_once: images compared with a block at a time, by each device: a matter of
        memory only.
    """

    radius: float = 8.0
    step_size: float = 8.0
    pgd_steps: int = 1
    network: str = "cnn"
    weight_variance: float = 1.76
    bias_variance: float = 0.18
    time: float = 64.0
    regularization: float = 1e-4
    block_size: int = 512
    validation_size: int = 10_000
    rows_at_once: int = 64

    def __post_init__(self) -> None:
        check_radius(self.radius)
        check_choice("network", self.network, _NETWORKS)
        for name in ("pgd_steps", "block_size", "validation_size", "rows_at_once"):
            check_number(name, getattr(self, name), "> 0", whole=True)
        for name in ("step_size", "weight_variance", "bias_variance", "time"):
            check_number(name, getattr(self, name), "> 0")
        check_number("regularization", self.regularization, ">= 0")


# "cnn" and "fnn" are what was published: the paper's ten steps of projected gradient
# are, in the released code, ten times the same step of the whole radius from the clean
# image. "pgd" takes the steps that the paper means. The published images are 40,000,
# judged by 10,000 that stay clean, and only whole blocks are perturbed; here all are,
# and those that follow a block in a random order judge it. The rate of the descent is
# divided by n K entries of the targets, as in the library that the code calls.
PRESETS: dict[str, NeuralTangentConfig] = {
    "cnn": NeuralTangentConfig(),
    "fnn": NeuralTangentConfig(network="fnn"),
    "pgd": NeuralTangentConfig(step_size=0.88, pgd_steps=10),
}

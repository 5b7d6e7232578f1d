"""What every estimator of mutual information returns."""

import dataclasses
from typing import Literal

import jax

Kind = Literal["estimate", "lower", "upper"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Estimate:
    """An estimate of a mutual information.

    Attributes:
      value: () float, nats; never clipped at 0.
      standard_error: () float, nats; NaN where the estimator gives none.
      kind: whether the population value of the estimator is a "lower" bound of the
        mutual information, an "upper" bound or neither ("estimate").
      diagnostics: what a careful reader wants to see, by name.
    """

    value: jax.Array
    standard_error: jax.Array
    kind: Kind = dataclasses.field(metadata={"static": True})
    diagnostics: dict[str, jax.Array] = dataclasses.field(default_factory=dict)

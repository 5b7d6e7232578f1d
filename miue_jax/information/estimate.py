"""The return type of every estimator of mutual information."""

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
      standard_error: () float, nats; NaN if the estimator provides none.
      kind: whether the population value of the estimator is a "lower" bound on the
        mutual information, an "upper" bound or neither ("estimate").
      diagnostics: further quantities by name, such as warning signs to check.

    Example:
      >>> import numpy as np
      >>> from miue_jax.information import Estimate, estimators
      >>> x = np.random.default_rng(0).standard_normal((500, 1))
      >>> estimate = estimators.ksg(x, np.zeros((500, 1)))  # y is constant
      >>> isinstance(estimate, Estimate), estimate.kind
      (True, 'estimate')
      >>> abs(round(float(estimate.value), 3))
      0.0
    """

    value: jax.Array
    standard_error: jax.Array
    kind: Kind = dataclasses.field(metadata={"static": True})
    diagnostics: dict[str, jax.Array] = dataclasses.field(default_factory=dict)

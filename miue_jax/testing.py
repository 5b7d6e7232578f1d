"""Contract checks that the author of a plug-in calls from their own tests.

Each runs what every member of this library runs through, and raises an AssertionError
that says which promise is broken.
"""

from miue_jax.defenses.testing import check_defense
from miue_jax.generators.testing import check_generator
from miue_jax.information.testing import check_bound, check_estimator
from miue_jax.models.testing import check_model

__all__ = [
    "check_bound",
    "check_defense",
    "check_estimator",
    "check_generator",
    "check_model",
]

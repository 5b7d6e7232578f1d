"""Mutual information: estimators, provable bounds, tasks of known truth, inference."""

from miue_jax.information import bounds as bounds
from miue_jax.information import estimators as estimators
from miue_jax.information import inference as inference
from miue_jax.information import tasks as tasks
from miue_jax.information.estimate import Estimate as Estimate

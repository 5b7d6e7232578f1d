"""Telling protected data from others, and when training on them was at its best."""

from miue_jax.detection.early_stopping import Peak as Peak
from miue_jax.detection.early_stopping import early_stopping as early_stopping
from miue_jax.detection.linear_separability import STEPS as STEPS
from miue_jax.detection.linear_separability import Separability as Separability
from miue_jax.detection.linear_separability import (
    linear_separability as linear_separability,
)
from miue_jax.detection.simple_network import MODELS as MODELS
from miue_jax.detection.simple_network import SimpleNetwork as SimpleNetwork
from miue_jax.detection.simple_network import (
    SimpleNetworkConfig as SimpleNetworkConfig,
)
from miue_jax.detection.simple_network import check_size as check_size
from miue_jax.detection.simple_network import simple_network as simple_network

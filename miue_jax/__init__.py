"""Mutual-information unlearnable examples as pure JAX functions."""

from miue_jax import data as data
from miue_jax import defenses as defenses
from miue_jax import detection as detection
from miue_jax import features as features
from miue_jax import generators as generators
from miue_jax import losses as losses
from miue_jax import models as models
from miue_jax import projected_gradient as projected_gradient
from miue_jax.budget import Budget as Budget
from miue_jax.image import augment as augment
from miue_jax.losses import conditional_covariance_loss as conditional_covariance_loss
from miue_jax.losses import distance_loss as distance_loss
from miue_jax.losses import mi_ue_loss as mi_ue_loss
from miue_jax.losses import similarity_loss as similarity_loss
from miue_jax.projected_gradient import pgd as pgd
from miue_jax.victims import presets as presets
from miue_jax.victims import training as training

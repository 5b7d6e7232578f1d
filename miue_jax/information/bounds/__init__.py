"""Provable bounds on mutual information, in nats, as differentiable pure functions.

Write Zc and Zp for the features of clean and poisoned images, Y for the label and
Z~p = Zp + sigma N for the poisoned features observed in isotropic Gaussian noise. The
statements T1 to T14 behind the functions, with proofs, are in docs/theory.md.
"""

from miue_jax.information.bounds.bracket import Bracket as Bracket
from miue_jax.information.bounds.bracket import CrossEntropy as CrossEntropy
from miue_jax.information.bounds.bracket import bracket as bracket
from miue_jax.information.bounds.bracket import (
    floored_cross_entropy as floored_cross_entropy,
)
from miue_jax.information.bounds.bracket import (
    held_out_cross_entropy as held_out_cross_entropy,
)
from miue_jax.information.bounds.class_moments import ClassMoments as ClassMoments
from miue_jax.information.bounds.class_moments import class_moments as class_moments
from miue_jax.information.bounds.cosine import cosine_bound as cosine_bound
from miue_jax.information.bounds.cosine import intra_class_cosine as intra_class_cosine
from miue_jax.information.bounds.cosine import linear_bound as linear_bound
from miue_jax.information.bounds.cosine_confidence import (
    CertifiedBounds as CertifiedBounds,
)
from miue_jax.information.bounds.cosine_confidence import (
    CosineConfidence as CosineConfidence,
)
from miue_jax.information.bounds.cosine_confidence import (
    certified_bounds as certified_bounds,
)
from miue_jax.information.bounds.cosine_confidence import (
    cosine_confidence as cosine_confidence,
)
from miue_jax.information.bounds.empirical_bernstein import (
    empirical_bernstein_radius as empirical_bernstein_radius,
)
from miue_jax.information.bounds.fano import fano_accuracy as fano_accuracy
from miue_jax.information.bounds.fano import fano_information as fano_information
from miue_jax.information.bounds.hadamard import hadamard_bound as hadamard_bound
from miue_jax.information.bounds.hadamard import principal_basis as principal_basis
from miue_jax.information.bounds.labels import LabelBounds as LabelBounds
from miue_jax.information.bounds.labels import label_entropy as label_entropy
from miue_jax.information.bounds.labels import (
    label_information_bounds as label_information_bounds,
)
from miue_jax.information.bounds.log_sum_exp import cosine_lse as cosine_lse
from miue_jax.information.bounds.log_sum_exp import cosine_lse_lower as cosine_lse_lower
from miue_jax.information.bounds.rate_reduction import rate_reduction as rate_reduction
from miue_jax.information.bounds.reidentification import (
    reidentification_accuracy as reidentification_accuracy,
)
from miue_jax.information.bounds.trace import amgm_bound as amgm_bound
from miue_jax.information.bounds.trace import trace_bound as trace_bound
from miue_jax.information.bounds.within_class import (
    within_class_logdet as within_class_logdet,
)

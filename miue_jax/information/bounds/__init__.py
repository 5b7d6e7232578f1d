"""Provable bounds on mutual information, in nats, as differentiable pure functions.

Write Zc and Zp for the features of clean and poisoned images, Y for the label and
Z~p = Zp + sigma N for the poisoned features observed in isotropic Gaussian noise. The
statements T1 to T14 behind the functions, with proofs, are in docs/theory.md.
"""

from miue_jax.information.bounds.bracket import (
    Bracket,
    CrossEntropy,
    bracket,
    floored_cross_entropy,
    held_out_cross_entropy,
)
from miue_jax.information.bounds.classes import ClassMoments, class_moments
from miue_jax.information.bounds.confidence import (
    CertifiedBounds,
    CosineConfidence,
    certified_bounds,
    cosine_confidence,
    empirical_bernstein_radius,
)
from miue_jax.information.bounds.cosine import (
    cosine_bound,
    cosine_lse,
    cosine_lse_lower,
    intra_class_cosine,
    linear_bound,
)
from miue_jax.information.bounds.fano import (
    fano_accuracy,
    fano_information,
    reidentification_accuracy,
)
from miue_jax.information.bounds.hadamard import hadamard_bound, principal_basis
from miue_jax.information.bounds.labels import (
    LabelBounds,
    label_entropy,
    label_information_bounds,
    rate_reduction,
)
from miue_jax.information.bounds.within_class import (
    amgm_bound,
    trace_bound,
    within_class_logdet,
)

__all__ = [
    "Bracket",
    "CertifiedBounds",
    "ClassMoments",
    "CosineConfidence",
    "CrossEntropy",
    "LabelBounds",
    "amgm_bound",
    "bracket",
    "certified_bounds",
    "class_moments",
    "cosine_bound",
    "cosine_confidence",
    "cosine_lse",
    "cosine_lse_lower",
    "empirical_bernstein_radius",
    "fano_accuracy",
    "fano_information",
    "floored_cross_entropy",
    "hadamard_bound",
    "held_out_cross_entropy",
    "intra_class_cosine",
    "label_entropy",
    "label_information_bounds",
    "linear_bound",
    "principal_basis",
    "rate_reduction",
    "reidentification_accuracy",
    "trace_bound",
    "within_class_logdet",
]

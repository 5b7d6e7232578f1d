"""Uncertainty of estimates: subsampling intervals, extrapolation, permutation tests."""

from miue_jax.information.inference.extrapolation import Extrapolation as Extrapolation
from miue_jax.information.inference.extrapolation import extrapolate as extrapolate
from miue_jax.information.inference.permutation import (
    PermutationTest as PermutationTest,
)
from miue_jax.information.inference.permutation import (
    permutation_test as permutation_test,
)
from miue_jax.information.inference.subsampling import (
    SubsampleInterval as SubsampleInterval,
)
from miue_jax.information.inference.subsampling import (
    subsample_interval as subsample_interval,
)

#!/usr/bin/env bash
# npeet_plus 0.2.0 gives confidence intervals of a mutual information that lie far above
# the mutual information, and above its own estimate of it.
#
# Expected: `mi_confidence_interval`, documented to estimate a 95 % confidence interval of
# the mutual information by bootstrapping, gives an interval that has the true value in it
# for about 95 of 100 samples, and as a rule the estimate that it returns beside it.
# Seen: for the documented example (y = x + 0.5 noise, 1,000 pairs) the truth is 1.16
# bits, the estimate 1.15, and the interval 1.92 to 2.30. For independent pairs the truth
# is 0, the estimate -0.01, and the interval 0.85 to 1.26: they seem to be dependent
# beyond doubt. No interval of ten samples has the truth or the estimate in it. A pair that
# is drawn more than once is a nearest neighbor of itself, at no distance, and the
# estimate rests on the distances to others. Halves, drawn without repetition, are right.
#
# Exits 0 while this is so, and 1 when any of the intervals has the truth in it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet npeet_plus==0.2.0 numpy==2.4.6 scipy==1.17.1 \
    scikit-learn==1.9.1
"$folder/env/bin/python" - <<'PY'
import math
import sys

import numpy as np
from npeet_plus.estimators import mi, mi_confidence_interval

draw = np.random.default_rng(0)
missed = 0
for seed in range(5):
    x, noise = draw.normal(size=(2, 1000, 1))
    for name, y, truth in (
        ("documented example", x + 0.5 * noise, math.log2(5) / 2),
        ("independent", noise, 0.0),
    ):
        estimate, low, high, _ = mi_confidence_interval(
            x, y, n_bootstraps=40, confidence_level=0.95, random_state=seed
        )
        missed += bool(low > max(truth, estimate))
        line = f"{name}: truth {truth:.2f}, estimate {estimate:.2f}"
        line += f", interval {low:.2f} to {high:.2f}"
        if seed == 0:
            halves = [draw.permutation(1000)[:500] for _ in range(40)]
            values = [mi(x[half], y[half]) for half in halves]
            low, high = np.percentile(values, [2.5, 97.5])
            line += f" (of halves without repetition: {low:.2f} to {high:.2f})"
        print(line)
print(f"intervals that lie above the truth and the estimate: {missed} of 10")
sys.exit(missed < 10)
PY

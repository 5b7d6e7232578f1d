"""Estimators of mutual information on the 40 tasks of the Beyond Normal benchmark.

    python experiments/benchmark_estimators.py --workdir runs/estimators

`rows` names the estimators to run, cheap ones first, and their order in the table;
`estimators` says what each of them is. Started several times at once, the processes
share the work. Took 46 minutes of one busy core, most of them for training critics: at
5,000 samples 0.3 s for KSG, 3 to 4 s for a critic, which takes 6 s to compile for each
number of dimensions. Mean absolute errors to expect, in nats: 0.24 and 0.22 for KSG,
0.17 for the Gaussian ones, 0.19 for InfoNCE, 0.23 and 0.24 for Donsker-Varadhan and
SMILE; NWJ diverges on Student tails. The published figures that the first three rows,
KSG with k = 10, InfoNCE and MINE are to be held against are in the table.
"""

import dataclasses
from typing import Any

from ml_collections import ConfigDict, config_dict

from miue_jax.information import estimators, tasks


def _entry(title: str, name: str, published: str | None, **options: Any) -> dict:
    none = config_dict.placeholder(str)
    return {
        "title": title,
        "name": name,
        "published": none if published is None else published,
        "options": options,
    }


def get_config() -> ConfigDict:
    """Returns the configuration of the benchmark."""
    training = dataclasses.asdict(estimators.FitConfig())
    trained: dict[str, Any] = {"embedding": 32, "config": training}
    ksg = {"variant": 1, "standardize": True}
    entries = {
        "gaussian_plug_in": _entry(
            "Gaussian, plug-in",
            "gaussian",
            "Gaussian plug-in",
            correction=False,
        ),
        "gaussian_corrected": _entry(
            "Gaussian, corrected",
            "gaussian",
            "Gaussian + digamma correction",
            correction=True,
        ),
        "copula": _entry(
            "Gaussian copula, corrected", "copula", "GCMI", correction=True
        ),
        "ksg_10": _entry("KSG, k = 10", "ksg", "KSG k=10", neighbors=10, **ksg),
        "ksg_5": _entry("KSG, k = 5", "ksg", None, neighbors=5, **ksg),
        "infonce": _entry("InfoNCE", "infonce", "InfoNCE", **trained),
        "dv": _entry("Donsker-Varadhan (MINE)", "dv", "MINE", **trained),
        "nwj": _entry("NWJ", "nwj", None, **trained),
        "smile": _entry("SMILE", "smile", None, clip=5.0, **trained),
    }
    return ConfigDict(
        {
            "rows": tuple(entries),
            "estimators": entries,
            "tasks": tasks.BENCHMARK,
            "sizes": (5000,),
            "seeds": (0, 1, 2),
            # Of KSG within classes, in as many dimensions as a network's features.
            "speed": {"size": 10_000, "dim": 512, "classes": 10, "repeats": 3},
        }
    )

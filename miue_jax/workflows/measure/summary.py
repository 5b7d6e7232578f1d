"""What measurements of several victims say together."""

import itertools
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

# In standard errors: a rise beyond is no sampling error.
_LARGE = 2.0


def measures(entry: Mapping[str, Any]) -> dict[str, float | None]:
    """The numbers of one victim and layer that are compared with its accuracy.

    Args:
      entry: one of `entries` of the results.

    Returns:
      Nats by name; None where a number is not defined.
    """
    found = {name: e["value"] for name, e in entry["estimates"].items()}
    bracket = entry["bracket"]
    if "problem" in bracket:
        return found
    middle = bracket["grid"][len(bracket["grid"]) // 2]
    return {
        **found,
        "within_classes": middle["within_classes"],
        "label_information_clean": bracket["label_information"]["clean"]["lower"],
        "label_information_protected": bracket["label_information"]["protected"][
            "lower"
        ],
    }


def spearman(x: Iterable[float], y: Iterable[float]) -> float | None:
    """Spearman's rank correlation, with mean ranks where values are equal.

    Args:
      x: numbers.
      y: as many.

    Returns:
      The correlation in [-1, 1]; None below three pairs or where all are equal.
    """
    first, second = _ranks(x), _ranks(y)
    if len(first) < 3 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(np.corrcoef(first, second)[0, 1])


def _ranks(values: Iterable[float]) -> np.ndarray:
    _, which, counts = np.unique(
        np.array(list(values)), return_inverse=True, return_counts=True
    )
    return (np.cumsum(counts) - (counts - 1) / 2)[which]


def correlations(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rank correlation of every measure with victim accuracy, layer by layer.

    Args:
      entries: of the results.

    Returns:
      `layer`, `measure`, `spearman` and the number of `victims` behind it.
    """
    found = []
    for layer in dict.fromkeys(entry["layer"] for entry in entries):
        own = [entry for entry in entries if entry["layer"] == layer]
        values = [measures(entry) for entry in own]
        for name in dict.fromkeys(itertools.chain.from_iterable(values)):
            pairs = [
                (value[name], entry["accuracy"])
                for value, entry in zip(values, own, strict=True)
                if value.get(name) is not None
            ]
            rho = spearman(*zip(*pairs, strict=True)) if pairs else None
            found.append(
                {
                    "layer": layer,
                    "measure": name,
                    "spearman": rho,
                    "victims": len(pairs),
                }
            )
    return found


def data_processing(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Compares every estimate with the one at the next deeper layer (T11).

    Information cannot rise from a layer to a function of it. A layer that is a vector
    is measured whole, and what follows is a function of it: there a rise is an error of
    the estimator, which misses information at the shallower layer (a lower bound may)
    or finds too much at the deeper one. A map is measured by its average over space,
    which does not determine what follows: there a rise contradicts nothing.

    Args:
      entries: of the results, the layers of a victim in order of depth.

    Returns:
      `victim`, `seed`, `estimator`, `shallower`, `deeper`, the `rise` in nats, its
      `standard_error` as of independent estimates (None if unknown), whether T11
      `applies`, and whether the rise `contradicts` it by more than two of them.
    """
    found = []
    by_victim = itertools.groupby(entries, lambda e: (e["victim"], e["seed"]))
    for (victim, seed), own in by_victim:
        for above, below in itertools.pairwise(own):
            for name, first in above["estimates"].items():
                second = below["estimates"][name]
                if None in (first["value"], second["value"]):
                    continue
                rise = second["value"] - first["value"]
                errors = [e.get("standard_error") for e in (first, second)]
                error = None if None in errors else math.hypot(*errors)
                applies = not above["averaged"]
                large = error is not None and rise > _LARGE * error
                found.append(
                    {
                        "victim": victim,
                        "seed": seed,
                        "estimator": name,
                        "shallower": above["layer"],
                        "deeper": below["layer"],
                        "rise": rise,
                        "standard_error": error,
                        "applies": applies,
                        "contradicts": applies and large,
                    }
                )
    return found

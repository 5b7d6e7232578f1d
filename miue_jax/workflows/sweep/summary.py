"""The results of a sweep: what the cells that are done have found."""

import dataclasses
import json
import pathlib
import platform
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from miue_jax.budget import Budget
from miue_jax.data import DataSource, bucket, public
from miue_jax.train.metrics import mean_and_std
from miue_jax.workflows.sweep.plan import Cell, Sweep

# Of the metadata of a protected data set.
KEPT = ("generator", "radius", "export", "audit", "psnr", "ssim")


def summarize(
    sweep: Sweep,
    protected: Mapping[str, Mapping[str, Any]],
    done: Mapping[Cell, Mapping[str, Any]],
    failed: Mapping[Cell, str],
    planned: Iterable[Cell],
) -> dict[str, Any]:
    """Joins the seeds of each generator, defense and victim.

    Args:
      sweep: the settings.
      protected: the metadata of the protected data sets, by row.
      done: the results of the cells that are done (`evaluate.run`, one seed each).
      failed: why the others that ran have none.
      planned: all cells.

    Returns:
      What results.json holds.
    """
    groups: dict[tuple[str, str, str], dict[int, Mapping[str, Any]]] = {}
    planned = list(planned)
    for cell in planned:
        if cell in done:
            groups.setdefault(cell[:3], {})[cell.seed] = done[cell]
    # Settings of a user's own parts may be paths.
    command = public.command(["miue", *sys.argv[1:]])
    about = {
        "data": sweep.data_name or _named(sweep.data),
        # The same in all cells of a directory.
        "num_shards": next((run["num_shards"] for run in done.values()), None),
        "processor": platform.processor() or platform.machine(),
        "planned": len(planned),
        "done": sum(map(len, groups.values())),
        "protected": {
            name: {
                "budget": str(_budget(made)),
                **{k: made[k] for k in KEPT},
                **_part(made),
                **_draw(sweep, name, made),
            }
            for name, made in protected.items()
        },
        "failed": {"-".join(map(str, cell)): why for cell, why in failed.items()},
        # In the order in which they run, those that are not done included.
        "generators": list(dict.fromkeys(cell.generator for cell in planned)),
        "defenses": {
            name: sweep.defenses[name]
            for name in dict.fromkeys(cell.defense for cell in planned)
        },
        "columns": {
            victim: list(
                dict.fromkeys(cell.defense for cell in planned if cell.victim == victim)
            )
            for victim in dict.fromkeys(cell.victim for cell in planned)
        },
        "victims": {
            # As it will be read again: JSON has no tuples.
            name: json.loads(json.dumps(dataclasses.asdict(sweep.victims[name])))
            | next((r["clipped"] for c, r in done.items() if c.victim == name), {})
            for name in dict.fromkeys(cell.victim for cell in planned)
        },
        "cells": [_join(key, by_seed) for key, by_seed in groups.items()],
    }
    return {"command": command, **public.without_folders(about)}


def _named(source: DataSource) -> str:
    path = pathlib.Path(source.name)
    there = bucket.is_address(source.name) or path.exists()
    return path.name if there else source.name


def _budget(made: Mapping[str, Any]) -> Budget:
    return Budget(made.get("norm", "linf"), made["radius"])


def _part(made: Mapping[str, Any]) -> dict[str, float]:
    """The share of the images that is protected, where it is not all of them."""
    fraction = made.get("select", {}).get("fraction", 1.0)
    return {} if fraction == 1 else {"fraction": fraction}


def _draw(sweep: Sweep, name: str, made: Mapping[str, Any]) -> dict[str, int]:
    """The seed of the generator, where the row has one of its own."""
    row = sweep.generators.get(name)
    return {} if row is None or row.seed is None else {"seed": made["seed"]}


def _join(
    key: tuple[str, str, str], by_seed: Mapping[int, Mapping[str, Any]]
) -> dict[str, Any]:
    generator, defense, victim = key
    results = list(by_seed.values())
    joined: dict[str, Any] = {
        "generator": generator,
        "defense": defense,
        "victim": victim,
        "seeds": list(by_seed),
    }
    for measure in ("final", "best", "robust"):
        if all(measure in run for run in results):
            joined[measure] = mean_and_std([run[measure]["mean"] for run in results])
    return {
        **joined,
        "epochs_tested": results[0]["epochs_tested"],
        "test_accuracy": [run["test_accuracy"][0] for run in results],
        "device": sorted({run["device"] for run in results}),
        "jax": sorted({run["jax"] for run in results}),
    }

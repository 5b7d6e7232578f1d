"""Compares generators: protects one data set with each and trains victims on all.

    python experiments/compare.py --config experiments/configs/cifar10_cpu.py \
        --config.data.name_or_path=path/to/cifar10 --workdir runs/cifar10_cpu

Every protected data set and every victim is a run of its own below the working
directory; the same command goes on where it was stopped. After each of them
results.json holds what is done so far.
"""

import pathlib
import platform
import shlex
import sys
from collections.abc import Mapping
from typing import Any

import command_line
import evaluate
import generate
import jax
import runs
from absl import logging

from miue_jax import data, defenses, methods, training


def run(
    config: Mapping[str, Any], workdir: pathlib.Path, *, resume: bool = True
) -> dict[str, Any]:
    """Runs, or finishes, a comparison.

    Args:
      config: as in experiments/configs/cifar10_cpu.py.
      workdir: the directory of the comparison.
      resume: whether runs that were stopped may be continued.

    Returns:
      What results.json holds.
    """
    _check(config)
    with runs.open_directory(workdir, dict(config), resume=resume):
        return _run(config, workdir, resume=resume)


def _check(config: Mapping[str, Any]) -> None:
    """Finds what is wrong with any part before the first of them runs."""
    for method in config["sources"].values():
        if method is not None:
            settings = dict(method)
            methods.configure(settings.pop("name"), settings)
    for victim in config["victims"].values():
        training.VictimConfig(**victim["protocol"])
        defenses.create(victim["defense"])
    if not config["seeds"]:
        raise ValueError("seeds is empty; name at least one")
    for part in ("data", "test"):
        data.load(**config[part])


def _run(
    config: Mapping[str, Any], workdir: pathlib.Path, *, resume: bool
) -> dict[str, Any]:
    results: dict[str, Any] = {
        "command": shlex.join(["python", *sys.argv]),
        "data": config["data_name"],
        "hardware": f"{platform.processor() or platform.machine()}, "
        f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "jax": jax.__version__,
        "seeds": list(config["seeds"]),
        "protected": {},
        "cells": [],
    }
    sources = {}
    for name, method in config["sources"].items():
        if method is None:
            sources[name] = dict(config["data"])
            continue
        logging.warning("protecting: %s", name)
        made = generate.run(
            {
                "data": config["data"],
                "method": method,
                "protect": {"fraction": 1.0, "classes": None, "seed": 0},
                "seed": config["generator_seed"],
                "num_shards": None,
                "checkpoint_every": 100,
            },
            workdir / name,
            resume=resume,
        )
        kept = ("method", "radius", "audit", "psnr", "ssim")
        results["protected"][name] = {k: made.metadata[k] for k in kept}
        path = str(workdir / name / generate.ARTEFACT)
        sources[name] = {**config["data"], "name_or_path": path, "per_class": None}
    for victim_name, victim in config["victims"].items():
        for name, train in sources.items():
            logging.warning("training on: %s, victim: %s", name, victim_name)
            found = evaluate.run(
                {
                    "train": train,
                    "test": config["test"],
                    "victim": victim["protocol"],
                    "defense": victim["defense"],
                    "seeds": config["seeds"],
                    "num_shards": None,
                    "evaluate_every": config["evaluate_every"],
                    "checkpoint_every": config["evaluate_every"],
                },
                workdir / f"{name}-{victim_name}",
                resume=resume,
            )
            cell = {"source": name, "victim": victim_name}
            cell |= {k: found[k] for k in ("victim", "defense") if k != "victim"}
            cell["protocol"] = found["victim"]
            cell |= {k: found[k] for k in ("final", "best", "epochs_tested")}
            cell["test_accuracy"] = found["test_accuracy"]
            results["cells"].append(cell)
            runs.write_json(workdir / evaluate.RESULTS, results)
    return results


def main(config: dict[str, Any], workdir: pathlib.Path, resume: bool) -> None:
    """Runs and prints what came out."""
    results = run(config, workdir, resume=resume)
    print(f"{workdir}/{evaluate.RESULTS}: {len(results['cells'])} cells")


if __name__ == "__main__":
    command_line.run(
        main,
        config_file="experiments/configs/cifar10_cpu.py",
        description="What to compare.",
    )

"""Compares generators: protects one data set with each and trains victims on all.

    python experiments/compare.py --config experiments/configs/cifar10_cpu.py \
        --config.data.name_or_path=path/to/cifar10 --workdir runs/cifar10_cpu

Every protected data set and every victim is a run of its own below the working
directory; the same command goes on where it was stopped. Started several times at once,
on several cores or devices, the processes share the work: none repeats what another has
done or is doing. After each victim results.json holds what is done so far.
"""

import pathlib
import platform
import re
import shlex
import sys
import time
from collections.abc import Mapping
from typing import Any

import command_line
import evaluate
import generate
import jax
import runs
from absl import logging

from miue_jax import data
from miue_jax.data import protected

# Between two looks at what other processes are doing.
_SECONDS_TO_WAIT = 5.0


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

    Raises:
      ValueError: if any input is bad, and nothing is written then; if a run fails.
    """
    _check(config)
    # What this process has made or checked itself is no run that was stopped.
    known: set[pathlib.Path] = set()
    with runs.open_directory(workdir, dict(config), resume=resume, shared=True):
        cells = [(s, v) for v in config["victims"] for s in config["sources"]]
        while cells:
            left = []
            for cell in cells:
                try:
                    _run_cell(config, workdir, *cell, resume=resume, known=known)
                except runs.Busy:
                    left.append(cell)
                    continue
                results = _collect(config, workdir)
                if jax.process_index() == 0:
                    runs.write_json(workdir / evaluate.RESULTS, results)
            if len(left) == len(cells):
                time.sleep(_SECONDS_TO_WAIT)
            cells = left
        return _collect(config, workdir)


def _check(config: Mapping[str, Any]) -> None:
    """Finds what is wrong with any part before the first of them runs."""
    for name in (*config["sources"], *config["victims"]):
        # Directories are named after them, with a dash between the two.
        if not re.fullmatch(r"\w+", name):
            raise ValueError(f"name {name!r}; allowed: letters, digits and underscores")
    runs.check_seeds("seeds", config["seeds"])
    clean, test = (data.load(**config[part]) for part in ("data", "test"))
    for method in config["sources"].values():
        if method is not None:
            generate.prepare(_protection(config, method), clean)
    for victim in config["victims"].values():
        evaluate.prepare(_training(config, victim, config["data"]), clean, test)


def _protection(config: Mapping[str, Any], method: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a source's generator."""
    return {
        "data": config["data"],
        "method": method,
        "protect": {"fraction": 1.0, "classes": None, "seed": 0},
        "seed": config["generator_seed"],
        "num_shards": None,
        "checkpoint_every": 100,
    }


def _training(
    config: Mapping[str, Any], victim: Mapping[str, Any], train: Mapping[str, Any]
) -> dict[str, Any]:
    """The configuration of one kind of victim on one training set."""
    return {
        "train": train,
        "test": config["test"],
        "victim": victim["protocol"],
        "defense": victim["defense"],
        "seeds": config["seeds"],
        "num_shards": None,
        "evaluate_every": config["evaluate_every"],
        "checkpoint_every": config["evaluate_every"],
    }


def _run_cell(
    config: Mapping[str, Any],
    workdir: pathlib.Path,
    source: str,
    victim: str,
    *,
    resume: bool,
    known: set[pathlib.Path],
) -> None:
    """Trains one kind of victim on one source, which is protected first if need be."""
    train = dict(config["data"])
    method = config["sources"][source]
    if method is not None:
        made = workdir / source
        artefact = made / generate.ARTEFACT
        if not artefact.exists():
            logging.warning("protecting: %s", source)
        generate.run(_protection(config, method), made, resume=resume or made in known)
        known.add(made)
        train |= {"name_or_path": str(artefact), "per_class": None}
    file = _cell(workdir, source, victim)
    if not file.exists():
        logging.warning("training on: %s, victim: %s", source, victim)
    evaluate.run(
        _training(config, config["victims"][victim], train), file.parent, resume=resume
    )


def _cell(workdir: pathlib.Path, source: str, victim: str) -> pathlib.Path:
    return workdir / f"{source}-{victim}" / evaluate.RESULTS


def _collect(config: Mapping[str, Any], workdir: pathlib.Path) -> dict[str, Any]:
    """What is done so far, by whichever process."""
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
    for source, method in config["sources"].items():
        artefact = workdir / source / generate.ARTEFACT
        if method is not None and artefact.exists():
            made = protected.load(artefact).metadata
            kept = ("method", "radius", "audit", "psnr", "ssim")
            if not made.keys() >= set(kept):
                raise ValueError(f"{artefact} was not made by this comparison")
            results["protected"][source] = {k: made[k] for k in kept}
    for victim in config["victims"]:
        for source in config["sources"]:
            file = _cell(workdir, source, victim)
            if not file.exists():
                continue
            found = evaluate.read_results(file)
            kept = ("defense", "final", "best", "epochs_tested", "test_accuracy")
            cell = {"source": source, "victim": victim, "protocol": found["victim"]}
            results["cells"].append(cell | {k: found[k] for k in kept})
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

"""What makes a protection outlast compression, gray and tricks of training.

    python experiments/robust_study.py DATA --workdir runs/robust

DATA is CIFAR-10 as an image folder, the original archive or a .npz file; the 5,000
training and 5,000 test images of results/matrix_cpu.json are taken from it, with the
same victims: a ResNet-10 of width 16, ten epochs in batches of 32.

A row is `mi_ue/interleaved` with other settings. `base` is cross-entropy through JPEG
of quality 5 to 40 and gray, drawn anew in each of eight steps a visit that fall from 2
to 1 gray levels, 15 epochs. Most other rows change one thing; `redraw_visit`, one view
for all steps of a visit, is the prototype, and `gradient_surviving` is `mi_ue/robust`,
from which those after it depart. Rows of the first stage have four columns and one seed
of both generator and victim; `--final` names rows that get all columns, three seeds of
the victim, two of the generator and victims of other architectures. It takes 10 to 60
minutes of a core to make the perturbations of a row, and one to five for a victim
without adversarial training.

What is done so far is the result, results/robust_cpu.json; the study is not complete.

Runs are resumed by the same command; `--rows`, `--columns`, `--victims`, `--seeds` and
`--generator-seeds` choose cells, and several processes may share a directory.
summary.json and table.md in it show what is done.
"""

import dataclasses
import functools
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from matrix_cifar10_cpu import DEFENSES
from tyro.conf import Positional, arg

from miue_jax import _checks, _command_line, data, victims
from miue_jax.data import DataSource, atomic, public
from miue_jax.image import views
from miue_jax.train import run_directory
from miue_jax.workflows.sweep import plan, run
from miue_jax.workflows.sweep.plan import Block, Row, Sweep, row

PROG = "robust_study.py"

VIEWS = {
    **{"jpeg": 0.7, "grayscale": 0.15, "min_quality": 5, "max_quality": 40},
    "redraw": "step",
}
BASE = {
    "model": "resnet10",
    "epochs": 15,
    "pgd_steps": 8,
    "step_size": 2.0,
    "step_size_end": 1.0,
    "entropy_weight": 1.0,
    "views": VIEWS,
}

# The most telling ones first.
CHANGES: dict[str, dict[str, Any]] = {
    "base": {},
    "redraw_visit": {"views": {"redraw": "visit"}},
    "gradient_soft": {"views": {"gradient": "soft"}},
    "gradient_surviving": {"views": {"gradient": "surviving"}},
    "surviving_to_0_6": {"views": {"gradient": "surviving"}, "step_size_end": 0.6},
    "surviving_mixed": {"views": {"gradient": "surviving"}, "entropy_weight": 0.7},
    "surviving_class_means": {
        "views": {"gradient": "surviving"},
        "entropy_weight": 0.7,
        "similarity": "class_means",
    },
    "surviving_paired": {
        "views": {"gradient": "surviving"},
        "entropy_weight": 0.7,
        "similarity": "paired",
    },
    "surviving_plain_30": {"views": {"gradient": "surviving", "jpeg": 0.55}},
    "surviving_noise_4": {
        "views": {"gradient": "surviving"},
        "adversarial_radius": 4.0,
    },
    "surviving_adversary": {
        "views": {"gradient": "surviving"},
        "adversarial_radius": 2.0,
        "adversarial_step_size": 1.5,
        "adversarial_steps": 2,
    },
    "surviving_steps_4": {"views": {"gradient": "surviving"}, "pgd_steps": 4},
    "surviving_epochs_8": {"views": {"gradient": "surviving"}, "epochs": 8},
    "surviving_half": {"views": {"gradient": "surviving"}, "fraction": 0.5},
    "surviving_smooth_4": {"views": {"gradient": "surviving"}, "smooth_radius": 4.0},
    "surviving_robust": {
        "views": {
            **dataclasses.asdict(views.PRESETS["robust"]),
            **{"redraw": "step", "gradient": "surviving"},
        }
    },
    "paired": {"entropy_weight": 0.0, "similarity": "paired"},
    "class_means": {"entropy_weight": 0.0, "similarity": "class_means"},
    "batch": {"entropy_weight": 0.0},
    "steps_falling_3": {"step_size": 3.0, "step_size_end": 1.5},
    "quality_5_20": {"views": {"max_quality": 20}},
    "paired_mixed": {"entropy_weight": 0.5, "similarity": "paired"},
    "class_means_mixed": {"entropy_weight": 0.5, "similarity": "class_means"},
    "batch_mixed": {"entropy_weight": 0.7},
    "steps_constant_2": {"step_size_end": 2.0},
    "steps_to_0_6": {"step_size_end": 0.6},
    "pgd_steps_16": {"pgd_steps": 16},
    "pgd_steps_4": {"pgd_steps": 4},
    "epochs_30": {"epochs": 30},
    "epochs_8": {"epochs": 8},
    "plain_0": {"views": {"jpeg": 0.85}},
    "plain_30": {"views": {"jpeg": 0.55}},
    "quality_10_90": {"views": {"min_quality": 10, "max_quality": 90}},
    "gray_30": {"views": {"jpeg": 0.55, "grayscale": 0.3}},
    "full_color_50": {"views": {"full_color": 0.5}},
    "warmup_30": {"views": {"warmup": 0.3}},
    "paired_margin": {"entropy_weight": 0.0, "similarity": "paired", "margin": 0.2},
    "views_robust": {
        "views": {**dataclasses.asdict(views.PRESETS["robust"]), "redraw": "step"}
    },
    "views_robust_visit": {"views": "robust"},
    "adversary_noise_4": {"adversarial_radius": 4.0},
    "adversary_2_steps": {
        "adversarial_radius": 2.0,
        "adversarial_step_size": 1.5,
        "adversarial_steps": 2,
    },
    "second_vgg11": {"second_model": "vgg11"},
    "resnet18": {"model": "resnet18"},
    "vgg11": {"model": "vgg11"},
    "no_views": {"views": "none"},
}

FIRST = ("jpeg_10", "none", "jpeg_50", "grayscale")

VICTIM = functools.partial(
    victims.preset, "quick", epochs=10, batch_size=32, learning_rate=0.05
)
# Deep ones also as narrow as the ResNet-10, so that depth alone is what changes, and a
# ViT that a core trains in minutes.
OTHERS: dict[str, dict[str, Any]] = {
    "vgg11": {"model": "vgg11"},
    "mobilenet_v2": {"model": "mobilenet_v2"},
    "vit_64": {"model": "vit", "width": 64},
    "resnet18_16": {"model": "resnet18", "width": 16},
    "resnet34_16": {"model": "resnet34", "width": 16},
    "resnet18": {"model": "resnet18"},
    "resnet34": {"model": "resnet34"},
}

SEEDS, GENERATOR_SEEDS = (0, 1, 2), (0, 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Studies what makes a protection outlast what happens to pictures.

    Attributes:
      data: CIFAR-10.
      workdir: directory of the study, which can be resumed.
      rows: that run; all of them by default.
      columns: that run; all of them by default.
      victims: that run; all of them by default.
      seeds: of victims that run; all of them by default.
      generator_seeds: that run; all of them by default. Later ones have the final rows
        only.
      final: rows with all columns, seeds and victims.
      cells: after so many new cells it stops; 0 only writes the summary, None runs all.
    """

    data: Annotated[Positional[str], arg(metavar="DATA")]
    workdir: pathlib.Path
    rows: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    victims: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    generator_seeds: tuple[int, ...] = ()
    final: tuple[str, ...] = ()
    cells: int | None = None


def rows() -> dict[str, Row | None]:
    """The rows of the study, `clean` first."""
    found: dict[str, Row | None] = {"clean": None}
    for name, changes in CHANGES.items():
        settings: Any = {**BASE, **changes}
        if isinstance(settings["views"], Mapping):
            settings["views"] = {**VIEWS, **settings["views"]}
        found[name] = row("mi_ue/interleaved", **settings)
    return found


def study(
    source: DataSource, test: DataSource, generator_seed: int, final: Sequence[str]
) -> Sweep:
    """Returns the cells of one seed of the generator, in the order in which they run.

    Args:
      source: the training images.
      test: the test images.
      generator_seed: of all rows.
      final: rows that get all columns, seeds and victims.

    Returns:
      The sweep.
    """
    all_victims = {"resnet10": VICTIM(model="resnet10")}
    all_victims |= {name: VICTIM(**settings) for name, settings in OTHERS.items()}
    one = {"victims": ("resnet10",)}
    blocks = []
    if generator_seed == GENERATOR_SEEDS[0]:
        for name in ("clean", *CHANGES):
            blocks += [
                Block(generators=(name,), defenses=(column,), seeds=(0,), **one)
                for column in FIRST
            ]
    if final:
        chosen = tuple(final)
        first = generator_seed == GENERATOR_SEEDS[0]
        blocks += [
            Block(generators=chosen, defenses=FIRST, **one),
            Block(generators=chosen, seeds=(0,), **one),
            Block(generators=chosen, **one),
            Block(
                generators=("clean", *chosen) if first else chosen,
                defenses=("none", "jpeg_50"),
                victims=tuple(OTHERS),
                seeds=(0,),
            ),
        ]
    return Sweep(
        data=source,
        test=test,
        generators=rows(),
        defenses=DEFENSES,
        victims=all_victims,
        seeds=SEEDS,
        blocks=tuple(blocks),
        generator_seed=generator_seed,
        num_shards=1,
        # The 5,000 test images cost a third of training an epoch.
        evaluate_every=2,
        data_name="CIFAR-10",
    )


def chosen_cells(sweep: Sweep, options: Options) -> list[plan.Cell]:
    """The cells that the command line asks for, in order."""
    return [
        cell
        for cell in plan.cells(sweep)
        if (not options.rows or cell.generator in options.rows)
        and (not options.columns or cell.defense in options.columns)
        and (not options.victims or cell.victim in options.victims)
        and (not options.seeds or cell.seed in options.seeds)
    ]


def only(sweep: Sweep, cell: plan.Cell) -> Sweep:
    """The sweep with this cell alone."""
    block = Block(
        generators=(cell.generator,),
        defenses=(cell.defense,),
        victims=(cell.victim,),
        seeds=(cell.seed,),
    )
    return dataclasses.replace(sweep, blocks=(block,))


def prepare_data(given: str, workdir: pathlib.Path) -> tuple[DataSource, DataSource]:
    """Keeps the images of the study in one file, which loads at once."""
    path = workdir / "data.npz"
    if not path.exists():
        train = data.load(given, per_class=500)
        test = data.load(given, "test", per_class=500)
        workdir.mkdir(parents=True, exist_ok=True)
        with atomic.write_file(path) as file:
            np.savez(
                file,
                x_train=train.images,
                y_train=train.labels,
                x_test=test.images,
                y_test=test.labels,
                class_names=np.array(train.class_names),
            )
    name = str(path.resolve())
    return DataSource(name), DataSource(name, split="test")


def held(folder: pathlib.Path) -> dict[str, list[list[float]]]:
    """Whether perturbations still work when their images are visited again.

    Args:
      folder: of the sweep.

    Returns:
      For each row its (step, loss): the objective that the surrogate has on images as
      their last visit left them, before this visit moves them.
    """
    found = {}
    for path in sorted(folder.glob("protected/*/metrics.jsonl")):
        lines = map(json.loads, path.read_text().splitlines())
        # A step that is repeated after a stop stands twice, with the same values.
        by_step = {line["step"]: line["perturbation_loss"] for line in lines}
        found[path.parent.name] = [
            [step, round(loss, 3)] for step, loss in sorted(by_step.items())
        ]
    return found


def summarize(
    found: Mapping[int, Mapping[str, Any]],
    losses: Mapping[int, Mapping[str, Sequence[Sequence[float]]]],
) -> dict[str, Any]:
    """Joins the results of the generator's seeds.

    Args:
      found: what the sweeps returned, by seed of the generator.
      losses: what `held` returned, by the same.

    Returns:
      What summary.json holds: "accuracies" of the cells, of all pairs of seeds.
    """
    joined: dict[tuple[str, str, str], dict[str, Any]] = {}
    for seed, results in found.items():
        for cell in results["cells"]:
            key = (cell["generator"], cell["defense"], cell["victim"])
            entry = joined.setdefault(key, {"pairs": [], "values": []})
            entry["pairs"] += [[seed, victim] for victim in cell["seeds"]]
            entry["values"] += cell["final"]["values"]
    revision = subprocess.run(
        ["git", "rev-parse", "HEAD"],
        cwd=pathlib.Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    return {
        "command": public.command(["python", *sys.argv]),
        "revision": revision,
        "data": "CIFAR-10, 5,000 training and 5,000 test images",
        "hardware": f"{_cores()} cores of {platform.processor() or platform.machine()}",
        "rows": {
            name: None
            if entry is None
            else {**entry.generator.to_plain(), "fraction": entry.fraction}
            for name, entry in rows().items()
        },
        "protected": {
            str(seed): results["protected"] for seed, results in found.items()
        },
        "perturbation_losses": {str(seed): rows for seed, rows in losses.items()},
        "failed": {str(seed): results["failed"] for seed, results in found.items()},
        "accuracies": [
            {
                "generator": key[0],
                "defense": key[1],
                "victim": key[2],
                # (seed of the generator, seed of the victim) of each value.
                "seeds": entry["pairs"],
                "values": entry["values"],
                "mean": statistics.fmean(entry["values"]),
            }
            for key, entry in joined.items()
        ],
    }


def table(summary: Mapping[str, Any]) -> str:
    """The Markdown tables of a summary, one for each victim."""
    parts = []
    for victim in dict.fromkeys(cell["victim"] for cell in summary["accuracies"]):
        cells = {
            (cell["generator"], cell["defense"]): cell["values"]
            for cell in summary["accuracies"]
            if cell["victim"] == victim
        }
        columns = [name for name in DEFENSES if any(key[1] == name for key in cells)]
        parts.append(f"| {victim}, trained on | {' | '.join(columns)} |")
        parts.append(f"|---|{'---:|' * len(columns)}")
        for name in dict.fromkeys(key[0] for key in cells):
            shown = [_shown(cells.get((name, column), [])) for column in columns]
            parts.append(f"| {name} | {' | '.join(shown)} |")
        parts.append("")
    return "\n".join(parts)


def _cores() -> int:
    # Not on every system are they known for a process.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _shown(values: Sequence[float]) -> str:
    if not values:
        return ""
    text = f"{100 * statistics.fmean(values):.1f}"
    if len(values) > 1:
        text += f" ± {100 * statistics.stdev(values):.1f} ({len(values)})"
    return text


def run_study(options: Options) -> None:
    """Runs the cells that are missing and writes the summary after each."""
    for name in (*options.rows, *options.final):
        if name not in rows():
            raise _checks.unknown("row", name, rows())
    for name in options.columns:
        if name not in DEFENSES:
            raise _checks.unknown("column", name, DEFENSES)
    for name in options.victims:
        if name not in ("resnet10", *OTHERS):
            raise _checks.unknown("victim", name, ("resnet10", *OTHERS))
    for seed in options.generator_seeds:
        if seed not in GENERATOR_SEEDS:
            raise _checks.unknown(
                "generator seed", str(seed), map(str, GENERATOR_SEEDS)
            )
    source, test = prepare_data(options.data, options.workdir)
    sweeps = {
        seed: study(source, test, seed, options.final)
        for seed in GENERATOR_SEEDS
        if seed == GENERATOR_SEEDS[0] or options.final
    }
    made = 0
    for seed, sweep in sweeps.items():
        if options.generator_seeds and seed not in options.generator_seeds:
            continue
        folder = options.workdir / f"generator_seed_{seed}"
        for cell in chosen_cells(sweep, options):
            if options.cells is not None and made >= options.cells:
                break
            if not (cell.folder(folder) / "results.json").exists():
                run.run(only(sweep, cell), folder, progress=False)
                report(sweeps, options.workdir)
                made += 1
    report(sweeps, options.workdir)


def report(sweeps: Mapping[int, Sweep], workdir: pathlib.Path) -> None:
    """Writes summary.json and table.md of what is done so far."""
    folders = {seed: workdir / f"generator_seed_{seed}" for seed in sweeps}
    folders = {seed: folder for seed, folder in folders.items() if folder.exists()}
    found = {
        seed: run.report(sweeps[seed], folder, plan.cells(sweeps[seed]), {})
        for seed, folder in folders.items()
    }
    losses = {seed: held(folder) for seed, folder in folders.items()}
    summary = summarize(found, losses)
    run_directory.write_json(workdir / "summary.json", summary)
    text = table(summary)
    with atomic.write_file(workdir / "table.md") as file:
        file.write(text.encode())
    _command_line.report(f"{time.strftime('%F %T')}\n{text}")


def main() -> None:
    """Runs the study; bad input is one line."""
    run_study(_command_line.parse(Options, sys.argv[1:], prog=PROG))


if __name__ == "__main__":
    sys.exit(_command_line.run(main, PROG))

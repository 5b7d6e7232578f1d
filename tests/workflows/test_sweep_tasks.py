"""The cells of a sweep one by one: their names, running them, looking at them."""

import dataclasses
import fcntl
import json
import os
import threading
import time

import pytest
from sweep_results import content, write_data

from miue_jax.train import run_directory
from miue_jax.workflows import evaluate, protect
from miue_jax.workflows.sweep import plan, records, run, status, tasks
from miue_jax.workflows.sweep.plan import Sweep

SETTINGS = {
    "generators": {"clean": None, "noise": "random_noise"},
    "defenses": {"none": "none", "hole": "cutout-4"},
    "victims": {"small": {"model": "linear", "epochs": 2, "batch_size": 8}},
}
PLANNED = [
    ("noise", ()),
    ("clean-none-small-seed_0", ()),
    ("noise-none-small-seed_0", ("noise",)),
    ("clean-hole-small-seed_0", ()),
    ("noise-hole-small-seed_0", ("noise",)),
]


@pytest.fixture
def sweep(tmp_path, one_device):
    return Sweep(data=write_data(tmp_path / "data.npz"), **SETTINGS)


def test_generators_come_first_and_victims_wait_for_theirs(sweep):
    assert [(task.name, task.after) for task in tasks.tasks(sweep)] == PLANNED


def test_names_stay_as_they_are_when_others_are_added(sweep):
    larger = dataclasses.replace(
        sweep,
        generators={"pixel": "one_pixel", **sweep.generators},
        defenses={"gray": "grayscale", **sweep.defenses},
        seeds=(1, 0),
    )
    before, after = ({t.name: t for t in tasks.tasks(s)} for s in (sweep, larger))
    assert before.items() <= after.items()
    assert len(after) == 2 + 18


def test_cells_run_in_any_order_are_the_whole_sweep(tmp_path, sweep):
    run.run(sweep, tmp_path / "whole", progress=False)
    workdir = tmp_path / "run"
    for name in ("clean-hole-small-seed_0", "noise", *(name for name, _ in PLANNED)):
        assert tasks.run_task(sweep, workdir, name) is None
    assert len(content(workdir)) == 2 + 4
    assert content(workdir) == content(tmp_path / "whole")


def test_a_cell_that_is_done_is_left_as_it_is(tmp_path, sweep, monkeypatch):
    for name in ("noise", "noise-none-small-seed_0"):
        tasks.run_task(sweep, tmp_path / "run", name)
    before = content(tmp_path / "run")
    monkeypatch.setattr(evaluate, "_train", lambda *a, **k: pytest.fail("again"))
    monkeypatch.setattr(protect, "_generate", lambda *a, **k: pytest.fail("again"))
    for name in ("noise", "noise-none-small-seed_0"):
        assert tasks.run_task(sweep, tmp_path / "run", name) is None
    assert content(tmp_path / "run") == before


def test_a_victim_without_its_data_is_refused(tmp_path, sweep):
    with pytest.raises(ValueError, match="waits for noise, which is not done"):
        tasks.run_task(sweep, tmp_path / "run", "noise-none-small-seed_0")
    with pytest.raises(ValueError, match="did you mean 'noise-none-small-seed_0'"):
        tasks.run_task(sweep, tmp_path / "run", "noise-none-smal-seed_0")
    assert not (tmp_path / "run").exists()


def test_what_comes_to_nothing_is_marked_and_not_tried_again(
    tmp_path, sweep, monkeypatch
):
    tried = []

    def fail(config, workdir, **options):
        tried.append(workdir.name)
        raise run_directory.Diverged("loss is nan at step 3")

    workdir = tmp_path / "run"
    monkeypatch.setattr(protect, "run", fail)
    monkeypatch.setattr(evaluate, "run", fail)
    for _ in range(2):
        assert tasks.run_task(sweep, workdir, "noise") == "loss is nan at step 3"
        # Its victims end with it.
        found = tasks.run_task(sweep, workdir, "noise-none-small-seed_0")
        assert found == "loss is nan at step 3"
        assert tasks.run_task(sweep, workdir, "clean-none-small-seed_0") is not None
    assert tried == ["noise", "clean-none-small-seed_0"]
    found = status.status(sweep, workdir)
    assert [found.states[name] for name, _ in PLANNED] == [
        *("failed", "failed", "failed", "waiting", "failed")
    ]
    assert found.failed["clean-none-small-seed_0"] == "loss is nan at step 3"


def test_a_cell_that_another_process_works_on_is_waited_for(
    tmp_path, sweep, monkeypatch
):
    workdir = tmp_path / "run"
    tasks.run_task(sweep, workdir, "clean-none-small-seed_0")
    folder = plan.artifact_path(workdir, "noise").parent
    folder.mkdir(parents=True)
    monkeypatch.setattr(tasks, "_SECONDS_TO_WAIT", 0.01)
    lock = (folder / ".lock").open("a")
    fcntl.flock(lock, fcntl.LOCK_EX)
    seen = []

    def look_and_release():
        seen.append(status.status(sweep, workdir).states["noise"])
        lock.close()

    thread = threading.Timer(1.0, look_and_release)
    thread.start()
    assert tasks.run_task(sweep, workdir, "noise") is None
    thread.join()
    assert seen == ["running"]
    assert status.status(sweep, workdir).states["noise"] == "done"


def test_the_time_left_is_that_of_the_cells_like_those_that_are_left(tmp_path, sweep):
    workdir = tmp_path / "run"
    assert status.status(sweep, workdir).seconds_left is None
    run.run(sweep, workdir, progress=False)
    assert status.status(sweep, workdir).seconds_left == 0
    # Each of them took so long; the last one, of which nothing is left, is estimated
    # by the one of its defense.
    took = dict(zip([name for name, _ in PLANNED], (1, 10, 20, 40), strict=False))
    now = time.time()
    for task in tasks.tasks(sweep):
        folder = task.folder(workdir)
        if task.name not in took:
            (folder / evaluate.RESULTS).unlink()
            (folder / "config.json").unlink()
            continue
        os.utime(folder / "config.json", (now - 100, now - 100))
        end = now - 100 + took[task.name]
        for path in folder.iterdir():
            if path.name in (evaluate.RESULTS, "protected.npz", "protected.delta.npy"):
                os.utime(path, (end, end))
    found = status.status(sweep, workdir)
    assert found.seconds_left == pytest.approx(40, abs=1e-3)
    assert status.describe(found) == (
        "4 done, 0 running, 0 failed, 1 waiting; about 1 min left"
    )


# Two sweeps in one place.


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"victims": {"small": "quick"}}, "victims.small.* there and"),
        ({"defenses": {"hole": "cutout-3"}}, "defenses.hole.size is 4 there and 3"),
        (
            {"generators": {"noise": {"name": "random_noise", "radius": 4.0}}},
            "generators.noise.radius is 8.0 there and 4.0 here",
        ),
        ({"generator_seed": 1}, "generator_seed is 0 there and 1"),
    ],
)
def test_two_sweeps_of_different_settings_in_one_place_are_refused(
    tmp_path, sweep, change, message
):
    # What the other one defines has not begun.
    workdir = tmp_path / "run"
    assert tasks.run_task(sweep, workdir, "clean-none-small-seed_0") is None
    other = dataclasses.replace(sweep, **change)
    before = {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()}
    with pytest.raises(ValueError, match=message):
        run.run(other, workdir, progress=False)
    assert {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()} == before


def test_names_of_both_sweeps_are_kept(tmp_path, sweep):
    workdir = tmp_path / "run"
    first = dataclasses.replace(sweep, generators=["clean"], defenses=["none"])
    second = dataclasses.replace(
        sweep, generators=["clean"], defenses={"x": "cutout-2"}
    )
    run.run(first, workdir, progress=False)
    run.run(second, workdir, progress=False)
    assert records.read_settings(workdir) == second
    third = dataclasses.replace(second, defenses={"none": "grayscale"})
    with pytest.raises(ValueError, match=r"defenses\.none\.name is 'none' there"):
        run.run(third, workdir, progress=False)


# The command.


@pytest.fixture
def site(tmp_path, sweep, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fields = {"data": "data.npz", **SETTINGS}
    (tmp_path / "mine.py").write_text(f"def get_config():\n    return {fields!r}\n")
    return tmp_path


def test_the_actions_of_the_command(miue, site):
    assert miue("sweep", "--config", "mine.py", "plan") == (
        0,
        "".join(f"{' after '.join((n, *after))}\n" for n, after in PLANNED),
        "",
    )
    status_, output, _ = miue("sweep", "plan", "--config=mine.py", "--json")
    assert json.loads(output)[0] == {"cell": "noise", "after": []}
    assert list(site.glob("*/")) == [], "a plan was written"
    where = ("--config=mine.py", "--workdir=run")
    assert miue("sweep", "run", *where, "--cell=noise", "--quiet")[:2] == (
        0,
        "noise: done\n",
    )
    # From here on, the directory knows its settings.
    cell = "noise-none-small-seed_0"
    assert miue("sweep", "--workdir", "run", "run", "--cell", cell, "--quiet")[0] == 0
    status_, output, errors = miue("sweep", "status", "--workdir=run")
    assert (status_, errors) == (0, "")
    assert output.startswith("2 done, 0 running, 0 failed, 3 waiting; about ")
    status_, output, errors = miue("sweep", "table", "--workdir=run")
    assert (status_, errors) == (0, "")
    assert output.startswith("| trained on | none | hole |\n")
    assert "1 of 4 victims are done" in output
    assert miue("sweep", *where, "--quiet")[0] == 0
    status_, output, _ = miue("sweep", "status", "--watch", "--workdir=run")
    assert output == "5 done, 0 running, 0 failed, 0 waiting\n"


def test_a_cell_that_comes_to_nothing_has_status_1(miue, site, monkeypatch):
    def fail(config, workdir, **options):
        raise run_directory.Diverged("loss is nan at step 3")

    monkeypatch.setattr(evaluate, "run", fail)
    cell = "clean-none-small-seed_0"
    where = ("--config=mine.py", "--workdir=run")
    status_, output, _ = miue("sweep", "run", *where, "--cell", cell)
    assert (status_, output) == (1, f"{cell}: failed: loss is nan at step 3\n")
    _, output, _ = miue("sweep", "status", "--workdir=run")
    assert f"\n{cell}: loss is nan at step 3\n" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--config=mine.py", "--workdir=run"], "--cell is missing"),
        (["run", "--config=mine.py", "--cell=noise"], "--workdir is missing"),
        (
            ["run", "--config=mine.py", "--workdir=run", "--cell=nose"],
            "unknown cell 'nose'; did you mean 'noise'",
        ),
        (
            ["run", "--config=mine.py", "--workdir=run", f"--cell={PLANNED[2][0]}"],
            "waits for noise, which is not done",
        ),
        (["status", "--config=mine.py", "--workdir=run"], "run: no such directory"),
        (["status", "--workdir=run"], "run holds no sweep: name its DATA or a"),
        (["table", "--workdir=run"], "run holds no sweep"),
        (["table", "--config=mine.py", "--workdir=run"], "no cell of this sweep is"),
        (["plan"], "DATA is missing"),
        (["plan", "--config=mine.py", "--cell=noise"], "unknown option '--cell'"),
        (["status", "--config=mine.py", "--workdir=.", "--every=0"], "every is 0"),
    ],
)
def test_bad_input_of_an_action_is_one_line(miue, site, arguments, message):
    status_, output, errors = miue("sweep", *arguments)
    assert (status_, output, errors.count("\n")) == (2, "", 1)
    assert message in errors
    assert not (site / "run").exists()


@pytest.mark.parametrize("action", ["plan", "run", "status", "table"])
def test_every_action_has_help(miue, action):
    status_, output, _ = miue("sweep", action, "--help")
    assert status_ == 0
    assert output.startswith(f"usage: miue sweep {action}")

"""The benchmark: who does equal work, what is timed, written, resumed and refused."""

import contextlib
import importlib
import importlib.util
import json
import pathlib
import subprocess
import sys
import zipfile

import jax
import numpy as np
import pytest

import miue_jax
from miue_jax import losses, models
from miue_jax.train import run_directory
from miue_jax.workflows import table as any_table
from miue_jax.workflows.benchmark import _child, run, table
from miue_jax.workflows.benchmark.cases import BEFORE, CASES, OURS

ROOT = pathlib.Path(__file__).parents[2]
NETWORKS = [name for name in CASES if name.startswith(("train", "perturb"))]
# In the maximum norm, an estimator of its own.
OTHER_NORM = {"scipy": 0.1, "infomeasure": 1.0}


# The work.


def work(name, side):
    case = CASES[name]
    package = case.sides[side].package
    if package and importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    place, _, function = case.sides[side].make.partition(":")
    module = importlib.import_module(f"miue_jax.workflows.benchmark.{place}")
    parameters = {**case.parameters, **case.small, **case.sides[side].options}
    return getattr(module, function)(**parameters)


@pytest.mark.parametrize(
    ("name", "side"),
    [(n, s) for n in CASES if n not in NETWORKS for s in CASES[n].sides if s != OURS],
)
def test_all_sides_of_a_case_find_the_same(name, side):
    ours, other = work(name, OURS), work(name, side)
    expected, found = ours.value(ours.run()), other.value(other.run())
    allowed = OTHER_NORM.get(side, 1e-3 * abs(expected))
    assert np.isfinite(expected)
    assert found == pytest.approx(expected, abs=allowed)


def test_the_titles_tell_cases_apart():
    assert len({case.title for case in CASES.values()}) == len(CASES)
    for case in CASES.values():
        assert next(iter(case.sides)) == OURS
        assert case.small.keys() <= case.parameters.keys()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["train", "perturb"])
@pytest.mark.parametrize("side", CASES[NETWORKS[0]].sides)
def test_a_step_of_a_network_runs(kind, side):
    done = work(f"{kind}_resnet10_w16", side)
    done.run()
    assert done.steps == 1
    if side == OURS:
        # At least the first convolution of eight images, three or two passes.
        passes = 3 if kind == "train" else 2
        assert done.flops > passes * 8 * 32 * 32 * 27 * 4 * 2
        assert done.peak[0] > 1e8


@pytest.mark.parametrize("name", ["resnet10", "resnet50"])
def test_the_pytorch_network_is_the_same_network(name):
    pytest.importorskip("torch")
    from miue_jax.workflows.benchmark import _pytorch

    module = models.create(name, num_classes=10, width=4)
    variables = jax.eval_shape(
        lambda x: module.init(jax.random.key(0), x, train=False),
        np.zeros((1, 32, 32, 3), np.float32),
    )
    sizes = sorted(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert isinstance(module, models.ResNet)
    twin = _pytorch.ResNet(10, module.stage_sizes, module.bottleneck, module.width)
    assert sorted(p.numel() for p in twin.parameters()) == sizes


def test_the_pytorch_loss_is_the_same_loss():
    torch = pytest.importorskip("torch")
    from miue_jax.workflows.benchmark import _pytorch

    features = np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32)
    labels = np.arange(12) % 4
    expected = losses.similarity_loss(features, labels)
    actual = _pytorch.similarity_loss(
        torch.from_numpy(features), torch.from_numpy(labels)
    )
    np.testing.assert_allclose(float(actual), expected, rtol=1e-5)


def test_a_process_keeps_to_its_cores():
    script = (
        "import os\n"
        "from miue_jax.workflows.benchmark import _child\n"
        "_child._keep_to_cores(1)\n"
        "print(len(os.sched_getaffinity(0)), os.environ['OMP_NUM_THREADS'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "1 1\n"


# The turns, with processes that only say what they were asked.


@pytest.fixture
def asked(monkeypatch):
    """What processes are asked, in order; what they answer by side can be changed."""
    log, answers = [], {}

    @contextlib.contextmanager
    def process(config, build, case):
        def ask(request):
            log.append((build.name, request["do"], request.get("side")))
            found = answers.get((build.name, request["do"], request.get("side")), {})
            if isinstance(found, BaseException):
                raise found
            if request["do"] == "describe":
                hardware = dict.fromkeys(("device", "processor"), "some")
                hardware |= {"backend": "cpu", "cores": 2}
                return {"hardware": hardware, "versions": {"jax": "1"}, **found}
            if request["do"] == "prepare":
                return {"value": 1.0, "steps": 1, "calls": 1, **found}
            return {"seconds": 4.0, "cpu_seconds": 2.0, **found}

        yield ask

    @contextlib.contextmanager
    def installed(wheel):
        yield pathlib.Path("/old")

    monkeypatch.setattr(run, "_process", process)
    monkeypatch.setattr(run, "installed", installed)
    return log, answers


HERE = pathlib.Path(miue_jax.__file__).parents[1].name


def test_sides_take_turns_and_a_ratio_is_of_one_turn(asked, tmp_path):
    log, answers = asked
    wheel = tmp_path / "miue_jax-0.0.1-py3-none-any.whl"
    wheel.write_bytes(b"")
    answers[HERE, "time", "pytorch"] = {"seconds": 2.0, "cpu_seconds": 6.0}
    answers["old", "time", OURS] = {"seconds": 8.0, "cpu_seconds": 1.0}
    found = run.benchmark(cases=("mi_ue_128",), repetitions=3, against=str(wheel))
    turn = [(HERE, OURS), (HERE, "pytorch"), ("old", OURS)]
    assert [(x[0], x[2]) for x in log if x[1] == "time"] == 3 * turn
    sides = found["benchmark"]["mi_ue_128"]["sides"]
    assert list(sides) == [OURS, "pytorch", BEFORE]
    ratios = {
        k: (v["cpu_ratio"]["median"], v["ratio"]["max"]) for k, v in sides.items()
    }
    assert ratios == {OURS: (1, 1), "pytorch": (3, 0.5), BEFORE: (0.5, 2)}
    assert found["settings"]["against"]["wheel"] == wheel.name
    assert "| before | 1.00 s (1.00 to 1.00) | 0.50 (0.50 to 0.50) |" in (
        table.render(found)
    )


def test_a_side_that_fails_leaves_the_others_alone(asked, tmp_path):
    _, answers = asked
    wheel = tmp_path / "miue_jax-0.0.1-py3-none-any.whl"
    wheel.write_bytes(b"")
    answers[HERE, "prepare", "scikit_learn"] = {"error": "not installed"}
    answers[HERE, "time", "scipy"] = run._Ended("its process ended with signal 9")
    answers["old", "prepare", OURS] = {"error": "ImportError: no ksg"}
    found = run.benchmark(cases=("ksg_5000_1",), repetitions=2, against=str(wheel))
    sides = found["benchmark"]["ksg_5000_1"]["sides"]
    assert sides["scikit_learn"] == {"why": "not installed"}
    assert sides["scipy"] == {"why": "its process ended with signal 9"}
    assert sides[BEFORE] == {"why": "not in this build: ImportError: no ksg"}
    assert sides[OURS]["cpu_seconds"] == {"median": 2.0, "min": 2.0, "max": 2.0}
    assert "| scikit-learn | not installed |" in table.render(found)


def test_memory_is_asked_of_sides_that_are_alone(asked):
    log, answers = asked
    answers[HERE, "memory", OURS] = {"peak_bytes": 2**30}
    found = run.benchmark(cases=("mi_ue_16384", "mi_ue_128"), repetitions=1)
    assert [x[2] for x in log if x[1] == "memory"] == [OURS, "pytorch"]
    assert found["benchmark"]["mi_ue_16384"]["sides"][OURS]["peak_bytes"] == 2**30
    assert "| 1.00 GiB |" in table.render(found)


def test_an_accelerator_has_cases_and_threads_of_its_own(asked):
    _, answers = asked
    hardware = {"backend": "gpu", "device": "some", "processor": "some", "cores": 2}
    with pytest.raises(ValueError, match="mi_ue_65536 is for accelerators"):
        run.benchmark(cases=("mi_ue_65536",))
    answers[HERE, "describe", None] = {"hardware": hardware}
    found = run.benchmark(cases=("mi_ue_65536",))
    assert list(found["benchmark"]) == ["mi_ue_65536"]
    assert found["settings"]["threads"] is None
    assert "Times are wall time" in table.render(found)


# The file.


def test_what_is_done_is_kept_and_a_rerun_does_the_rest(asked, tmp_path, monkeypatch):
    log, answers = asked
    path = tmp_path / "results.json"
    answers[HERE, "prepare", "scikit_image"] = KeyboardInterrupt()
    names = ("mi_ue_128", "ssim_512")
    with pytest.raises(KeyboardInterrupt):
        run.benchmark(cases=names, output=path, repetitions=1)
    first = run_directory.read_json(path)["benchmark"]
    assert list(first) == ["mi_ue_128"]
    del answers[HERE, "prepare", "scikit_image"]
    answers[HERE, "time", OURS] = {"seconds": 1.0, "cpu_seconds": 1.0}
    log.clear()
    run.benchmark(cases=names, output=path, repetitions=1)
    assert {x[2] for x in log if x[1] == "time"} == {OURS, "scikit_image"}
    both = run_directory.read_json(path)["benchmark"]
    assert both["mi_ue_128"] == first["mi_ue_128"]
    assert list(both) == list(names)
    assert both["ssim_512"]["sides"][OURS]["seconds"]["median"] == 1.0


def test_what_another_process_has_done_meanwhile_is_kept(asked, tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    other = run.benchmark(cases=("mi_ue_2048",), repetitions=1)
    measure = run._measure

    def meanwhile(*arguments):
        run._add(path, other, other["benchmark"])
        return measure(*arguments)

    monkeypatch.setattr(run, "_measure", meanwhile)
    run.benchmark(cases=("mi_ue_128",), output=path, repetitions=1)
    assert list(run_directory.read_json(path)["benchmark"]) == [
        "mi_ue_128",
        "mi_ue_2048",
    ]


def test_results_that_cannot_be_compared_are_not_mixed(asked, tmp_path, monkeypatch):
    _, answers = asked
    path = tmp_path / "results.json"
    run.benchmark(cases=("mi_ue_128",), output=path, repetitions=1)
    before = path.read_bytes()
    again = {"cases": ("mi_ue_2048",), "output": path}
    with pytest.raises(ValueError, match="repetitions is 1 there, 2 here"):
        run.benchmark(**again, repetitions=2)
    monkeypatch.setattr(run, "_digest", lambda package: "another")
    with pytest.raises(ValueError, match="another state of this package"):
        run.benchmark(**again, repetitions=1)
    answers[HERE, "describe", None] = {"versions": {"jax": "2"}}
    with pytest.raises(ValueError, match="jax is '1' there, '2' here"):
        run.benchmark(**again, repetitions=1)
    assert path.read_bytes() == before


# The command.


@pytest.mark.parametrize("text", ['{"mine": 1}', "no JSON"])
def test_a_file_of_somebody_else_stays(miue, tmp_path, text):
    path = tmp_path / "out.json"
    path.write_text(text)
    status, printed, errors = miue("benchmark", "--cases", "ssim_512", "--output", path)
    assert (status, printed) == (2, "")
    assert len(errors.splitlines()) == 1
    assert errors.startswith("miue benchmark: ")
    assert "out.json" in errors
    assert path.read_text() == text


def test_the_cases_are_listed_before_jax_is_there():
    script = (
        "import sys\nfrom miue_jax import cli\n"
        "cli.main(['benchmark', '--list'])\nprint('jax' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    *lines, jax_is_there = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(CASES)
    assert jax_is_there == "False"


def test_a_wheel_of_another_package_is_refused(miue, tmp_path):
    wheel = tmp_path / "other-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("other/__init__.py", "")
    status, printed, errors = miue("benchmark", "--against", wheel)
    assert (status, printed) == (2, "")
    assert errors.endswith("other-1-py3-none-any.whl: is no wheel of miue_jax\n")


@pytest.mark.slow
def test_the_command_measures_an_older_build_too(miue, tmp_path):
    wheel = tmp_path / "miue_jax-0.0.1-py3-none-any.whl"
    about = "miue_jax-0.0.1.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path in (ROOT / "miue_jax").rglob("*.py"):
            name = path.relative_to(ROOT).as_posix()
            # As if it had neither yet.
            if "workflows" not in name and path.name != "quality.py":
                archive.write(path, name)
        archive.writestr(
            f"{about}/METADATA",
            "Metadata-Version: 2.1\nName: miue_jax\nVersion: 0.0.1\n",
        )
        archive.writestr(
            f"{about}/WHEEL",
            "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr(f"{about}/RECORD", "")
    arguments = ["benchmark", "--size", "small", "--repetitions", "2", "--threads", 1]
    arguments += ["--cases", "mi_ue_16384", "ssim_512", "--output"]
    path = tmp_path / "out.json"
    status, printed, errors = miue(*arguments, path, "--against", wheel)
    assert status == 0, errors
    found = json.loads(path.read_text())
    case = found["benchmark"]["mi_ue_16384"]["sides"]
    assert case[OURS]["value"] == pytest.approx(case[BEFORE]["value"])
    assert 0.01 < case[BEFORE]["cpu_ratio"]["median"] < 100
    # Python with JAX takes some hundred megabytes before anything is computed.
    assert 0 <= case[OURS]["peak_bytes"] < 2**30
    why = found["benchmark"]["ssim_512"]["sides"][BEFORE]["why"]
    assert why.startswith("not in this build: ")
    assert "quality" in why
    assert found["command"] == (
        "miue benchmark --repetitions 2 --threads 1 --size small "
        f"--against {wheel.name} --output out.json"
    )
    assert printed.strip() == any_table.render(found)
    assert sorted(tmp_path.iterdir()) == [wheel, path]
    # All is there already: nothing is measured again.
    assert miue(*arguments, path, "--against", wheel)[1] == printed


def test_one_line_says_what_went_wrong():
    told = _child._told(RuntimeError("CUDA\n out of memory " + 300 * "x"))
    assert told.startswith("RuntimeError: CUDA out of memory")
    assert len(told) == 200

"""Measuring victims: what is held out, what is refused, and what the numbers say."""

import dataclasses
import importlib.util
import json
import logging
import pathlib
import shutil

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from miue_jax import cli, data
from miue_jax import victims as protocols
from miue_jax.budget import Budget
from miue_jax.data import DataSource, artifact
from miue_jax.train import parallel, run_directory
from miue_jax.workflows import evaluate, table
from miue_jax.workflows.measure import brackets, estimates, run, summary, victims
from miue_jax.workflows.measure.config import (
    FEWEST,
    EstimatorConfig,
    MeasureConfig,
    MeasuredRun,
)

CLASSES = 2
SIZE = 120


# The shared run: one victim trained on half of a protected data set -------------------


def _arrays(path: pathlib.Path, seed: int = 0) -> str:
    """Two classes of 8x8 images that differ in color."""
    rng = np.random.default_rng(seed)

    def split(size: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.arange(size) % CLASSES
        images = rng.integers(60, 160, (size, 8, 8, 3))
        images[..., 0] += 40 * labels[:, None, None]
        return images.astype(np.uint8), labels

    (x, y), (x_test, y_test) = split(SIZE), split(40)
    np.savez(path, x_train=x, y_train=y, x_test=x_test, y_test=y_test)
    return str(path)


def _protect(clean: data.Dataset, path: pathlib.Path, seed: int = 1) -> str:
    rng = np.random.default_rng(seed)
    delta = rng.choice([-8, 8], clean.images.shape).astype(np.float32) / 255
    artifact.save(
        path, artifact.build(clean, delta, budget=Budget("linf", 8), metadata={})
    )
    return str(path)


def _train(
    train: str, test: str, workdir: pathlib.Path, defense: str = "none", **changes
) -> None:
    evaluate.evaluate(
        DataSource(train, **changes),
        DataSource(test, split="test"),
        protocols.preset("quick", model="mlp3", width=16, epochs=1, batch_size=16),
        defense=defense,
        seeds=(3,),
        num_shards=1,
        workdir=workdir,
    )


@pytest.fixture(scope="module", autouse=True)
def one_device():
    mesh = parallel.data_mesh(jax.devices()[:1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parallel, "data_mesh", lambda: mesh)
        # This process has touched its devices: it is too late to look for others.
        patch.setattr(parallel, "initialize_processes", lambda **_: None)
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("measure")
    source = _arrays(root / "data.npz")
    clean = data.load(source)
    protected = _protect(clean, root / "protected.npz")
    _train(protected, source, root / "half", per_class=SIZE // 4)
    return root


def _config(root: pathlib.Path, entry: dict | None = None, **changes) -> MeasureConfig:
    fields = {"run": str(root / "half"), "generator": "m", "depth": 3, **(entry or {})}
    victims = {"one": MeasuredRun(**fields)}
    settings = {"data": str(root / "data.npz"), "victims": victims, **changes}
    return MeasureConfig(**settings)


def _load(root, **entry):
    config = _config(root, entry, per_class=100)
    return victims.load(config, "one", 3, config.data.load())


# What is measured -----------------------------------------------------------------


def test_pairs_are_those_the_victim_was_not_trained_on(root):
    victim, pairs = _load(root)
    protected = artifact.load(root / "protected.npz").dataset
    trained = data.subset(protected, per_class=SIZE // 4).images
    assert pairs.held_out
    assert len(pairs.labels) == SIZE // 2
    seen = {image.tobytes() for image in trained}
    assert not any(image.tobytes() in seen for image in pairs.protected)
    # Pairs are pairs: within the budget of each other, and not the same.
    change = np.abs(pairs.clean.astype(int) - pairs.protected).max(axis=(1, 2, 3))
    assert change.min() > 0
    assert change.max() <= 8
    results = evaluate.read_results(root / "half" / evaluate.RESULTS)
    assert victim.accuracy == results["final"]["values"][0]


def test_the_restored_network_has_the_accuracy_of_its_run(root):
    victim, _ = _load(root)
    test = data.load(str(root / "data.npz"), "test")
    logits = run._extract(victim, test.images, "logits")
    assert np.mean(logits.argmax(1) == test.labels) == pytest.approx(victim.accuracy)


def test_a_clean_victim_is_measured_on_images_it_has_not_seen(root):
    source = str(root / "data.npz")
    _train(source, source, root / "clean", per_class=SIZE // 4)
    protected = str(root / "protected.npz")
    _, pairs = _load(root, run=str(root / "clean"), protected=protected)
    trained = data.load(source, per_class=SIZE // 4).images
    seen = {image.tobytes() for image in trained}
    assert pairs.held_out
    assert len(pairs.labels) == SIZE // 2
    assert not any(image.tobytes() in seen for image in pairs.clean)


def test_images_seen_with_another_perturbation_are_not_held_out(root):
    """The victim saw every image of one artifact; another of the source is no new."""
    clean = data.load(str(root / "data.npz"))
    other = _protect(clean, root / "other.npz", seed=2)
    _train(str(root / "protected.npz"), str(root / "data.npz"), root / "whole")
    _, pairs = _load(root, run=str(root / "whole"), protected=other)
    assert not pairs.held_out
    assert len(pairs.labels) == SIZE


def test_unprotected_images_are_not_measured(root):
    clean = data.load(str(root / "data.npz"))
    delta = np.full(clean.images.shape, 8 / 255, np.float32)
    # Every third of each class: those that the victim saw and those that it did not.
    delta[np.arange(SIZE) // CLASSES % 3 == 0] = 0
    built = artifact.build(clean, delta, budget=Budget("linf", 8), metadata={})
    artifact.save(root / "part.npz", built)
    _, pairs = _load(root, protected=str(root / "part.npz"))
    assert (pairs.clean != pairs.protected).any(axis=(1, 2, 3)).all()
    assert len(pairs.labels) < SIZE // 2


# Bad input ------------------------------------------------------------------------


def _unfinished(root):
    copy = shutil.copytree(root / "half", root / "unfinished")
    (copy / evaluate.RESULTS).unlink()
    return {"run": str(copy)}


def _lost_checkpoint(root):
    copy = shutil.copytree(root / "half", root / "lost")
    shutil.rmtree(copy / "seed_3" / "checkpoints")
    return {"run": str(copy)}


def _cut_short(root):
    copy = shutil.copytree(root / "half", root / "cut")
    results = run_directory.read_json(copy / evaluate.RESULTS)
    results["victim"]["epochs"] = 5
    run_directory.write_json(copy / evaluate.RESULTS, results)
    return {"run": str(copy)}


def _other_source(root):
    other = data.load(_arrays(root / "elsewhere.npz", seed=5))
    return {"protected": _protect(other, root / "of_another.npz")}


def _other_classes(root):
    clean = data.load(str(root / "data.npz"))
    renamed = clean._replace(class_names=("cat", "dog"))
    return {"protected": _protect(renamed, root / "renamed.npz")}


def _retrained(root):
    copy = shutil.copytree(root / "half", root / "retrained")
    results = run_directory.read_json(copy / evaluate.RESULTS)
    results["train"]["seed"] = 9
    run_directory.write_json(copy / evaluate.RESULTS, results)
    return {"run": str(copy)}


def _in_memory(root):
    copy = shutil.copytree(root / "half", root / "memory")
    results = run_directory.read_json(copy / evaluate.RESULTS)
    results["train"] = {}
    run_directory.write_json(copy / evaluate.RESULTS, results)
    return {"run": str(copy)}


BAD_VICTIMS = {
    lambda root: {"run": str(root / "none")}: "no run directory",
    _unfinished: "no finished run .* no results.json",
    _lost_checkpoint: "no checkpoints in",
    _cut_short: r"no checkpoint of the finished victim \(step 20\).* of step 4",
    _other_source: "made from another source",
    _other_classes: "the classes of .* are .*cat",
    _retrained: "is not what it was trained on",
    _in_memory: "images in memory",
}


@pytest.mark.parametrize("make", BAD_VICTIMS, ids=lambda m: m.__name__.strip("_<>"))
def test_a_victim_that_does_not_fit_is_named(root, tmp_path, make):
    for name in ("unfinished", "lost", "cut", "retrained", "memory"):
        shutil.rmtree(root / name, ignore_errors=True)
    config = _config(root, make(root))
    with pytest.raises(ValueError, match=f"victim 'one'.*{BAD_VICTIMS[make]}"):
        run.run(config, tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_a_clean_victim_needs_a_protected_data_set(root):
    source = str(root / "data.npz")
    if not (root / "clean").exists():
        _train(source, source, root / "clean", per_class=SIZE // 4)
    entry, protected = {"run": str(root / "clean")}, str(root / "protected.npz")
    with pytest.raises(ValueError, match=r"'one' was not trained on a protected"):
        _load(root, **entry)
    config = _config(root, entry, protected=protected)
    victim, _ = victims.load(config, "one", 3, config.data.load())
    assert victim.identity["protected"] == protected


BAD_SETTINGS = {
    "layer": ({"layers": ("hiden1",)}, "'hiden1'; did you .*'hidden1'"),
    "victims": ({"victims": {}}, "victims is empty"),
    "label": ({"victims": {"a/b": "run"}}, "'a/b': a label has"),
    "same labels": ({"victims": ("x/run", "y/run")}, "several victims are named 'run'"),
    "field of a victim": (
        {"victims": {"one": {"run": "r", "dept": 3}}},
        "unknown setting of victim 'one' 'dept'; did you mean 'depth'",
    ),
    "victim without a run": ({"victims": {"one": {}}}, "victim 'one' needs .* run"),
    "pairs": ({"per_class": 3}, "per_class is 3; at least 12"),
    "noise": ({"noise_variances": (0.1, -1)}, "noise_variances is -1"),
    "no noise": ({"noise_variances": ()}, "noise_variances is empty"),
    "confidence": ({"confidence": 1.0}, r"confidence is 1\.0"),
    "seed": ({"seed": -1}, "seed holds -1"),
    "defended": ({"defended": "yes"}, "defended is 'yes'"),
    "neighbors": ({"estimators": {"neighbors": 6}}, "must be below 6"),
    "steps": ({"estimators": {"critic_steps": 0}}, "critic_steps is 0"),
    "estimators": (
        {"estimators": {"critic_stps": 9}},
        "unknown setting of estimators 'critic_stps'; did you mean 'critic_steps'",
    ),
}


@pytest.mark.parametrize("case", list(BAD_SETTINGS))
def test_bad_settings_are_named_and_nothing_is_written(root, tmp_path, case):
    changes, message = BAD_SETTINGS[case]
    with pytest.raises(ValueError, match=message):
        run.run(_config(root, **changes), tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_too_few_pairs_name_the_class(root):
    clean = data.load(str(root / "data.npz"))
    delta = np.zeros(clean.images.shape, np.float32)
    delta[: 2 * FEWEST - 2] = 8 / 255
    built = artifact.build(clean, delta, budget=Budget("linf", 8), metadata={})
    artifact.save(root / "few.npz", built)
    with pytest.raises(ValueError, match=f"class '0' has {FEWEST - 1} pairs"):
        _load(root, protected=str(root / "few.npz"))


def test_defended_pairs_are_seen_as_the_victim_saw_its_training_images(root, tmp_path):
    source, protected = str(root / "data.npz"), str(root / "protected.npz")
    workdir = tmp_path / "gray"
    _train(protected, source, workdir, defense="grayscale", per_class=SIZE // 4)
    _, plain = _load(root, run=str(workdir))
    config = _config(root, {"run": str(workdir)}, per_class=100, defended=True)
    _, seen = victims.load(config, "one", 3, config.data.load())
    weights = np.array([0.299, 0.587, 0.114])
    for name in ("clean", "protected"):
        luma = getattr(plain, name) @ weights
        assert np.abs(getattr(seen, name) - luma[..., None]).max() <= 1
    np.testing.assert_array_equal(seen.labels, plain.labels)
    assert seen.held_out
    # No defense leaves them as they are.
    config = _config(root, per_class=100, defended=True)
    _, same = victims.load(config, "one", 3, config.data.load())
    np.testing.assert_array_equal(same.clean, plain.clean)


def test_what_a_defense_does_to_all_images_together_cannot_be_measured(root, tmp_path):
    protected, workdir = str(root / "protected.npz"), tmp_path / "cutout"
    _train(protected, str(root / "data.npz"), workdir, defense="cutout-4")
    config = _config(root, {"run": str(workdir)}, defended=True)
    with pytest.raises(ValueError, match=r"behind .cutout.*allowed with"):
        run.run(config, tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


# The parts of the report ----------------------------------------------------------


def _clusters(spread: float, size: int = 400, dim: int = 8):
    """Four classes; protected features share with clean ones a part of their spread."""
    rng = np.random.default_rng(0)
    labels = np.arange(size) % 4
    means = 3 * np.eye(4, dim)
    shared = rng.normal(size=(size, dim))
    clean = means[labels] + 0.3 * shared + 0.1 * rng.normal(size=(size, dim))
    poison = means[labels] + spread * (shared + 0.5 * rng.normal(size=(size, dim)))
    fitted = np.arange(size) // 4 % 2 == 0
    return clean.astype(np.float32), poison.astype(np.float32), labels, fitted


def test_the_classifier_knows_what_the_features_tell_and_no_more():
    clean, _, labels, fitted = _clusters(0.3)
    noise = np.random.default_rng(1).normal(size=clean.shape).astype(np.float32)
    known = brackets.held_out_losses(clean, labels, fitted, 4)
    unknown = brackets.held_out_losses(noise, labels, fitted, 4)
    assert len(known) == np.sum(~fitted)
    assert known.mean() < 0.05
    # On features that tell nothing, weight decay keeps it from worse than guessing.
    assert unknown.mean() == pytest.approx(np.log(4), abs=0.05)
    assert unknown.max() <= np.log(4 / brackets.FLOOR) * (1 + 1e-6)


def test_the_bracket_holds_its_order_and_closes_as_classes_collapse():
    found = {}
    for spread in (0.3, 1e-3):
        clean, poison, labels, fitted = _clusters(spread)
        found[spread] = brackets.bound(
            jax.random.key(0),
            clean,
            poison,
            labels,
            fitted,
            num_classes=4,
            noise_variances=(1e-3, 1e-2),
            confidence=0.9,
        )
        assert found[spread]["entropy"] == pytest.approx(np.log(4))
        for entry in found[spread]["grid"]:
            assert entry["lower_limit"] < entry["lower"] < entry["upper"]
            assert entry["upper"] < entry["upper_limit"]
        w = [entry["within_classes"] for entry in found[spread]["grid"]]
        assert w[1] < w[0], "more noise must leave less information"
    open_, closed = (found[s]["grid"][1] for s in (0.3, 1e-3))
    assert closed["upper"] - closed["lower"] < 0.2
    assert open_["within_classes"] > 10 * closed["within_classes"]
    assert found[1e-3]["cosine"] > found[0.3]["cosine"]
    assert found[1e-3]["cosine"] == pytest.approx(1, abs=1e-4)


def test_a_protected_feature_of_zero_has_no_direction():
    clean, poison, labels, fitted = _clusters(0.3)
    poison[7] = 0
    with pytest.raises(ValueError, match="1 protected features are zero"):
        brackets.bound(
            jax.random.key(0),
            clean,
            poison,
            labels,
            fitted,
            num_classes=4,
            noise_variances=(0.1,),
            confidence=0.9,
        )


def test_canonical_directions_find_what_is_shared_beneath_what_is_large():
    rng = np.random.default_rng(0)
    labels, fitted = np.arange(2000) % 2, np.arange(2000) < 1000
    shared = rng.normal(size=2000)
    sides = []
    for _ in range(2):
        side = rng.normal(size=(2000, 6)) * [5, 5, 1, 1, 1, 1]
        side[:, 5] = shared + 0.1 * rng.normal(size=2000)
        sides.append(side + 20 * labels[:, None])
    cca = estimates.project(*sides, labels, fitted, kind="cca", components=2)
    pca = estimates.project(*sides, labels, fitted, kind="pca", components=2)
    own = labels[~fitted]

    def correlation(x, y):
        x, y = (z - np.where(own, z[own == 1].mean(), z[own == 0].mean()) for z in x_y)
        return abs(np.corrcoef(x, y)[0, 1])

    x_y = [z[:, 0] for z in cca]
    assert correlation(*x_y) > 0.95
    x_y = [z[:, 0] for z in pca]
    assert correlation(*x_y) < 0.2
    assert cca[0].shape == pca[0].shape == (1000, 2)


def test_directions_survive_full_collapse():
    clean, poison, labels, fitted = _clusters(0.0)
    for kind in ("pca", "cca"):
        x, y = estimates.project(clean, poison, labels, fitted, kind=kind, components=4)
        assert np.isfinite(x).all(), kind
        assert np.isfinite(y).all(), kind


def test_spearman_counts_ties_by_their_mean_rank():
    assert summary.spearman([1, 2, 3], [10, 20, 90]) == pytest.approx(1)
    assert summary.spearman([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    scipy = pytest.importorskip("scipy.stats", reason="SciPy is the oracle")
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 5, 30), rng.integers(0, 5, 30)
    assert summary.spearman(x, y) == pytest.approx(scipy.spearmanr(x, y).statistic)
    assert summary.spearman([1, 2], [1, 2]) is None
    assert summary.spearman([1, 1, 1], [1, 2, 3]) is None


def _entry(layer, value, *, averaged, error=0.1, accuracy=0.5, victim="one"):
    return {
        "victim": victim,
        "seed": 0,
        "layer": layer,
        "averaged": averaged,
        "accuracy": accuracy,
        "bracket": {"problem": "none"},
        "estimates": {"ksg": {"value": value, "standard_error": error}},
    }


def test_a_rise_contradicts_data_processing_only_behind_a_vector():
    entries = [
        _entry("stage1", 1.0, averaged=True),
        _entry("hidden1", 2.0, averaged=False),
        _entry("features", 3.0, averaged=False),
        _entry("logits", 3.1, averaged=False),
    ]
    found = summary.data_processing(entries)
    assert [c["rise"] for c in found] == pytest.approx([1, 1, 0.1])
    assert [c["applies"] for c in found] == [False, True, True]
    assert [c["contradicts"] for c in found] == [False, True, False]
    unknown = [
        _entry(str(n), v, averaged=False, error=None) for n, v in enumerate((0, 9))
    ]
    assert [c["contradicts"] for c in summary.data_processing(unknown)] == [False]
    missing = [_entry("a", None, averaged=False), _entry("b", 1.0, averaged=False)]
    assert summary.data_processing(missing) == []


def test_correlations_are_by_layer_and_leave_out_what_is_not_defined():
    entries = [
        _entry("features", value, averaged=False, accuracy=a, victim=str(a))
        for value, a in ((1.0, 0.1), (2.0, 0.2), (3.0, 0.4), (None, 0.9))
    ]
    (found,) = summary.correlations(entries)
    assert found == {
        "layer": "features",
        "measure": "ksg",
        "spearman": pytest.approx(1),
        "victims": 3,
    }


# The whole ------------------------------------------------------------------------


@pytest.mark.slow
def test_estimates_see_what_is_shared_within_classes():
    settings = EstimatorConfig(
        critic_steps=100,
        critic_seeds=2,
        num_slices=4,
        permutations=19,
        components=8,
        ksg_components=4,
    )
    clean, poison, labels, fitted = _clusters(0.3, size=480)
    rng = np.random.default_rng(2)
    # The same classes, and nothing shared beyond them.
    order = np.concatenate([rng.permutation(np.arange(y, 480, 4)) for y in range(4)])
    apart = poison.copy()
    apart[np.argsort(labels, kind="stable")] = poison[order]
    shared, independent = (
        estimates.estimate(
            jax.random.key(0),
            clean,
            protected,
            labels,
            fitted,
            num_classes=4,
            settings=settings,
        )
        for protected in (poison, apart)
    )
    for name in ("ksg_conditional_pca", "ksg_conditional_cca"):
        assert shared[name]["of"] == estimates.WITHIN
        assert shared[name]["value"] > 0.3
        assert shared[name]["p_value"] == pytest.approx(0.05)
        assert abs(independent[name]["value"]) < 0.2
        assert independent[name]["p_value"] > 0.05
    for name in ("class_conditional_gaussian", "infonce", "smile", "ksg"):
        assert "problem" not in shared[name], shared[name]
        assert shared[name]["value"] > independent[name]["value"], name
        assert shared[name]["standard_error"] > 0, name
    assert shared["sliced"]["kind"] == "lower"
    assert "wrong way" in shared["sliced"]["note"]
    json.dumps(shared, allow_nan=False)


@pytest.fixture
def quick(monkeypatch):
    """Estimators compile for long; what is around them is tested without."""

    def fake(key, clean, protected, labels, fitted, *, num_classes, settings):
        value = float(np.mean(np.square(clean - protected)))
        names = ("class_conditional_gaussian", "ksg_conditional_pca", "sliced")
        return {n: {"value": value, "standard_error": None} for n in names}

    monkeypatch.setattr(estimates, "estimate", fake)


@pytest.fixture
def quicker(quick, monkeypatch):
    """Brackets compile, too."""
    monkeypatch.setattr(brackets, "bound", lambda *_, **__: {"problem": "left out"})


def test_results_hold_every_victim_and_layer_and_are_continued(
    root, tmp_path, quick, monkeypatch
):
    config = _config(root)
    workdir = tmp_path / "out"
    found = run.run(config, workdir, progress=False)
    # mlp3: the last hidden layer is the features.
    assert [e["layer"] for e in found["entries"]] == ["hidden1", "features"]
    assert found["held_out"]
    assert found == run_directory.read_json(workdir / run.RESULTS)
    for name in ("command", "hardware", "versions", "seed", "source"):
        assert found[name] not in (None, ""), name
    assert found["data"]["name"] == str(root / "data.npz")
    for entry in found["entries"]:
        assert (entry["victim"], entry["seed"], entry["generator"]) == ("one", 3, "m")
        assert entry["images"] == SIZE // 2
        assert len(entry["bracket"]["grid"]) == 5
    for plot in run.PLOTS:
        assert (workdir / plot).read_bytes().startswith(b"\x89PNG")
    assert "| m | 3 |" in table.render(found)
    # A second victim is added; the first is not measured again.
    kept = json.loads((workdir / "victims" / "one-seed_3.json").read_text())["layers"]
    measured = []
    monkeypatch.setattr(run, "_layers", lambda *a, **k: measured.append(a) or kept[:1])
    one = config.victims["one"]
    both = {"one": one, "two": dataclasses.replace(one, generator="other")}
    again = run.run(_config(root, victims=both), workdir, progress=False)
    assert len(measured) == 1
    assert [e["victim"] for e in again["entries"]] == ["one", "one", "two"]
    with pytest.raises(ValueError, match=r"another configuration \(confidence"):
        run.run(dataclasses.replace(config, confidence=0.9), workdir, progress=False)
    with pytest.raises(ValueError, match="pass --resume"):
        run.run(config, workdir, resume=False, progress=False)


def test_training_images_are_marked_where_nothing_was_held_out(root, tmp_path, quick):
    source = str(root / "data.npz")
    if not (root / "all").exists():
        _train(str(root / "protected.npz"), source, root / "all")
    config = _config(root, {"run": str(root / "all")}, layers=("features",))
    found = run.run(config, tmp_path / "out", progress=False)
    assert found["held_out"] is False
    assert [e["held_out"] for e in found["entries"]] == [False]
    assert "TRAINING images" in run.describe(found)


def test_without_matplotlib_the_numbers_come_and_one_line_tells(
    root, tmp_path, quicker, monkeypatch, caplog
):
    def without(name):
        assert name == "matplotlib"

    monkeypatch.setattr(importlib.util, "find_spec", without)
    monkeypatch.setattr(logging.getLogger("miue_jax"), "propagate", True)
    found = run.measure(
        str(root / "half"),
        str(root / "data.npz"),
        workdir=tmp_path / "out",
        layers=["features"],
    )
    (line,) = [r.message for r in caplog.records if r.name == "miue_jax"]
    assert "pip install 'miue_jax[plots]'" in line
    assert not list((tmp_path / "out").glob("*.png"))
    # Without a name of its own, a victim is called after its generator, or its run.
    assert [(e["victim"], e["generator"]) for e in found["entries"]] == [("half",) * 2]
    shown = table.render(found)
    assert "Spearman with depth" not in shown
    assert "None" not in shown


# The command ----------------------------------------------------------------------


@pytest.fixture
def command(capfd):
    """Runs `miue measure`; its status and what it printed."""

    def start(*arguments):
        status = cli.main(["measure", *map(str, arguments)])
        return status, *capfd.readouterr()

    return start


def test_the_command_measures_runs(root, tmp_path, quicker, command):
    workdir = tmp_path / "out"
    options = ["--data", root / "data.npz", "--layers", "features", "--quiet"]
    options += ["--estimators.critic-seeds", 1, "--workdir", workdir]
    status, printed, errors = command(root / "half", *options)
    assert (status, errors) == (0, "")
    assert printed.startswith(f"{workdir}/results.json: 1 victims and layers")
    results = json.loads((workdir / run.RESULTS).read_text())
    assert results["estimators"]["critic_seeds"] == 1
    assert results["layers"] == ["features"]
    assert command(root / "half", *options)[:2] == (0, printed)
    status, printed, errors = command(root / "half", *options, "--no-resume")
    assert (status, printed) == (2, "")
    assert "holds a run already" in errors


@pytest.mark.parametrize("kind", ["dataclass", "ConfigDict"])
def test_a_configuration_file_names_the_victims(root, tmp_path, quicker, command, kind):
    fields = {
        "data": {"name": str(root / "data.npz")},
        "victims": {
            "a": {"run": str(root / "half"), "generator": "A", "depth": 3},
            "b": {"run": str(root / "half"), "generator": "B", "depth": 4},
        },
        "layers": ("features",),
        "estimators": {"permutations": 0},
    }
    made = {"dataclass": MeasureConfig(**fields), "ConfigDict": ConfigDict(fields)}
    file = tmp_path / "mine.py"
    file.write_text("import holder\n\ndef get_config():\n    return holder.config\n")
    holder = type("holder", (), {"config": made[kind]})
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(__import__("sys").modules, "holder", holder)
        status, _, errors = command(
            *("--config", file, "--seed", 5, "--quiet", "--workdir", tmp_path / "all")
        )
        assert (status, errors) == (0, "")
        status, _, errors = command(
            *("b", "--config", file, "--quiet", "--workdir", tmp_path / "one")
        )
    assert (status, errors) == (0, "")
    results = json.loads((tmp_path / "all" / run.RESULTS).read_text())
    assert [e["generator"] for e in results["entries"]] == ["A", "B"]
    assert (results["seed"], results["estimators"]["permutations"]) == (5, 0)
    results = json.loads((tmp_path / "one" / run.RESULTS).read_text())
    assert [(e["generator"], e["depth"]) for e in results["entries"]] == [("B", 4)]


BAD_COMMANDS = {
    "no victims": ((), "victims is empty"),
    "no run": (("runs/nowhere",), "'nowhere': there is no run directory runs/nowhere"),
    "option": (("x", "--per-clas", 20), "--per-class"),
    "number": (("x", "--confidence", "high"), "confidence"),
    "estimator": (("x", "--estimators.neighbors", 6), "must be below 6"),
    "pairs": (("x", "--per-class", 3), "per_class is 3"),
    "file": (("--config", "nowhere.py"), "nowhere.py: no such configuration file"),
}


@pytest.mark.parametrize("case", list(BAD_COMMANDS))
def test_a_bad_command_is_one_line_and_status_2(tmp_path, command, case):
    arguments, message = BAD_COMMANDS[case]
    status, printed, errors = command(*arguments, "--workdir", tmp_path / "out")
    assert (status, printed) == (2, "")
    assert len(errors.splitlines()) == 1, errors
    assert errors.startswith("miue measure: ")
    assert message in errors
    assert not (tmp_path / "out").exists()


def test_a_workdir_is_needed_and_a_foreign_one_refused(root, tmp_path, command):
    arguments = [root / "half", "--data", root / "data.npz"]
    status, _, errors = command(*arguments)
    assert status == 2
    assert "--workdir is missing" in errors
    (tmp_path / "mine.txt").write_text("")
    status, _, errors = command(*arguments, "--workdir", tmp_path)
    assert status == 2
    assert "is not empty and holds no run" in errors
    assert len(errors.splitlines()) == 1


def test_a_sweep_is_no_run_but_its_victims_are(miue, tmp_path):
    cell = tmp_path / "swept" / "cells" / "clean-none-quick-seed_0"
    cell.mkdir(parents=True)
    run_directory.write_json(cell / "results.json", {"final": 1})
    run_directory.write_json(tmp_path / "swept" / "results.json", {"cells": []})
    workdir = tmp_path / "run"
    status, _, errors = miue("measure", tmp_path / "swept", "--workdir", workdir)
    assert (status, workdir.exists()) == (2, False)
    assert f"swept holds a sweep; name its victims, such as {cell}" in errors

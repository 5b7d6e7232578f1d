"""Measuring victims: what is held out, what is refused, and what the numbers say."""

import copy
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
from configs import evaluate as evaluate_config
from configs import measure as measure_config

from miue_jax import data
from miue_jax.budget import Budget
from miue_jax.data import artifact
from miue_jax.train import parallel
from miue_jax.workflows import evaluate
from miue_jax.workflows.measure import (
    brackets,
    classifier,
    directions,
    estimates,
    run,
    summary,
    victims,
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


def _train(train: str, test: str, workdir: pathlib.Path, **changes) -> None:
    config = evaluate_config.get_config("quick").to_dict()
    config["train"] |= {"name_or_path": train, **changes}
    config["test"]["name_or_path"] = test
    config["victim"] |= {"model": "mlp3", "width": 16, "epochs": 1, "batch_size": 16}
    config["seeds"], config["num_shards"] = (3,), 1
    evaluate.run(config, workdir, quiet=True)


@pytest.fixture(scope="module", autouse=True)
def one_device():
    mesh = parallel.data_mesh(jax.devices()[:1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parallel, "data_mesh", lambda: mesh)
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("measure")
    source = _arrays(root / "data.npz")
    clean = data.load(source)
    artifact = _protect(clean, root / "protected.npz")
    _train(artifact, source, root / "half", per_class=SIZE // 4)
    return root


def _config(root: pathlib.Path, **entry):
    config = measure_config.get_config(str(root)).to_dict()
    config["data"]["name_or_path"] = str(root / "data.npz")
    victim = {"run": str(root / "half"), "protected": None, "method": "m", "depth": 3}
    config["victims"] = {"one": {**victim, **entry}}
    return copy.deepcopy(config)


def _load(root, **entry):
    config = _config(root, **entry)
    return victims.load(
        "one",
        config["victims"]["one"],
        3,
        data.load(str(root / "data.npz")),
        layers=None,
        per_class=100,
    )


# What is measured -----------------------------------------------------------------


def test_pairs_are_those_the_victim_was_not_trained_on(root):
    victim, pairs = _load(root)
    artifact = artifact.load(root / "protected.npz").dataset
    trained = data.subset(artifact, per_class=SIZE // 4).images
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
    artifact = str(root / "protected.npz")
    _, pairs = _load(root, run=str(root / "clean"), protected=artifact)
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
    run = shutil.copytree(root / "half", root / "unfinished")
    (run / evaluate.RESULTS).unlink()
    return {"run": str(run)}


def _lost_checkpoint(root):
    run = shutil.copytree(root / "half", root / "lost")
    shutil.rmtree(run / "seed_3" / "checkpoints")
    return {"run": str(run)}


def _cut_short(root):
    run = shutil.copytree(root / "half", root / "cut")
    results = json.loads((run / evaluate.RESULTS).read_text())
    results["victim"]["epochs"] = 5
    (run / evaluate.RESULTS).write_text(json.dumps(results))
    return {"run": str(run)}


def _other_source(root):
    other = data.load(_arrays(root / "elsewhere.npz", seed=5))
    return {"protected": _protect(other, root / "of_another.npz")}


def _other_classes(root):
    clean = data.load(str(root / "data.npz"))
    renamed = clean._replace(class_names=("cat", "dog"))
    return {"protected": _protect(renamed, root / "renamed.npz")}


def _retrained(root):
    run = shutil.copytree(root / "half", root / "retrained")
    results = json.loads((run / evaluate.RESULTS).read_text())
    results["train"]["seed"] = 9
    (run / evaluate.RESULTS).write_text(json.dumps(results))
    return {"run": str(run)}


BAD_VICTIMS = {
    lambda root: {"run": str(root / "none")}: "no run directory",
    _unfinished: "no finished run .* no results.json",
    _lost_checkpoint: "no checkpoints in",
    _cut_short: r"no checkpoint of the finished victim \(step 20\).* of step 4",
    _other_source: "made from another source",
    _other_classes: "the classes of .* are .*cat",
    _retrained: "is not what it was trained on",
}


@pytest.mark.parametrize("make", BAD_VICTIMS, ids=lambda m: m.__name__.strip("_<>"))
def test_a_victim_that_does_not_fit_is_named(root, tmp_path, make):
    for name in ("unfinished", "lost", "cut", "retrained"):
        shutil.rmtree(root / name, ignore_errors=True)
    config = _config(root, **make(root))
    with pytest.raises(ValueError, match=f"victim 'one'.*{BAD_VICTIMS[make]}"):
        run.run(config, tmp_path / "out", quiet=True)
    assert not (tmp_path / "out").exists()


BAD_SETTINGS = {
    "layer": (lambda c: c.update(layers=("hiden1",)), "'hiden1'; did you .*'hidden1'"),
    "victims": (lambda c: c.update(victims={}), "victims is empty"),
    "label": (lambda c: c.update(victims={"a/b": {}}), "'a/b': a label has"),
    "pairs": (lambda c: c.update(per_class=3), "per_class is 3; at least 12"),
    "noise": (lambda c: c.update(noise_variances=(0.1, -1)), "noise_variances is -1"),
    "no noise": (lambda c: c.update(noise_variances=()), "noise_variances is empty"),
    "confidence": (lambda c: c.update(confidence=1.0), r"confidence is 1\.0"),
    "seed": (lambda c: c.update(seed=-1), "seed holds -1"),
    "neighbors": (lambda c: c["estimators"].update(neighbors=6), "must be below 6"),
    "steps": (lambda c: c["estimators"].update(critic_steps=0), "critic_steps is 0"),
}


@pytest.mark.parametrize("case", list(BAD_SETTINGS))
def test_bad_settings_are_named_and_nothing_is_written(root, tmp_path, case):
    change, message = BAD_SETTINGS[case]
    config = _config(root)
    change(config)
    with pytest.raises(ValueError, match=message):
        run.run(config, tmp_path / "out", quiet=True)
    assert not (tmp_path / "out").exists()


def test_too_few_pairs_name_the_class(root):
    clean = data.load(str(root / "data.npz"))
    delta = np.zeros(clean.images.shape, np.float32)
    delta[: 2 * victims.FEWEST - 2] = 8 / 255
    built = artifact.build(clean, delta, budget=Budget("linf", 8), metadata={})
    artifact.save(root / "few.npz", built)
    with pytest.raises(ValueError, match=f"class '0' has {victims.FEWEST - 1} pairs"):
        _load(root, protected=str(root / "few.npz"))


def test_the_committed_configuration_names_networks_that_exist():
    config = measure_config.get_config("here").to_dict()
    assert len(config["victims"]) == 12
    run._check(config)
    for entry in config["victims"].values():
        assert entry["run"].startswith("here/")
        clean = entry["method"] == "clean"
        assert entry["protected"] == ("here/mi_ue/protected.npz" if clean else None)


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
    known = classifier.held_out_losses(clean, labels, fitted, 4)
    unknown = classifier.held_out_losses(noise, labels, fitted, 4)
    assert len(known) == np.sum(~fitted)
    assert known.mean() < 0.05
    # On features that tell nothing, weight decay keeps it from worse than guessing.
    assert unknown.mean() == pytest.approx(np.log(4), abs=0.05)
    assert unknown.max() <= np.log(4 / classifier.FLOOR) * (1 + 1e-6)


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
    cca = directions.project(*sides, labels, fitted, kind="cca", components=2)
    pca = directions.project(*sides, labels, fitted, kind="pca", components=2)
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
        x, y = directions.project(
            clean, poison, labels, fitted, kind=kind, components=4
        )
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
    settings = measure_config.get_config().to_dict()["estimators"]
    settings |= {"critic_steps": 100, "critic_seeds": 2, "num_slices": 4}
    settings |= {"permutations": 19, "components": 8, "ksg_components": 4}
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


def test_results_hold_every_victim_and_layer_and_are_continued(
    root, tmp_path, quick, monkeypatch
):
    config = _config(root)
    workdir = tmp_path / "out"
    found = run.run(config, workdir, quiet=True)
    # mlp3: the last hidden layer is the features.
    assert [e["layer"] for e in found["entries"]] == ["hidden1", "features"]
    assert found["held_out"]
    assert found == json.loads((workdir / run.RESULTS).read_text())
    for name in ("command", "hardware", "versions", "seed", "source"):
        assert found[name] not in (None, ""), name
    for entry in found["entries"]:
        assert (entry["victim"], entry["seed"], entry["method"]) == ("one", 3, "m")
        assert entry["images"] == SIZE // 2
        assert len(entry["bracket"]["grid"]) == 5
    for picture in run.PICTURES:
        assert (workdir / picture).read_bytes().startswith(b"\x89PNG")
    # A second victim is added; the first is not measured again.
    kept = json.loads((workdir / "victims" / "one-seed_3.json").read_text())["layers"]
    measured = []
    monkeypatch.setattr(run, "_layers", lambda *a, **k: measured.append(a) or kept[:1])
    config["victims"]["two"] = {**config["victims"]["one"], "method": "other"}
    again = run.run(config, workdir, quiet=True)
    assert len(measured) == 1
    assert [e["victim"] for e in again["entries"]] == ["one", "one", "two"]
    config["confidence"] = 0.9
    with pytest.raises(ValueError, match=r"another configuration \(confidence"):
        run.run(config, workdir, quiet=True)


def test_training_images_are_marked_where_nothing_was_held_out(root, tmp_path, quick):
    source = str(root / "data.npz")
    if not (root / "all").exists():
        _train(str(root / "protected.npz"), source, root / "all")
    config = _config(root, run=str(root / "all"))
    config["layers"] = ("features",)
    found = run.run(config, tmp_path / "out", quiet=True)
    assert found["held_out"] is False
    assert [e["held_out"] for e in found["entries"]] == [False]

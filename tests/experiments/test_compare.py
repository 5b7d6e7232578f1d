"""A comparison: its cells, sharing the work, going on where it was stopped."""

import json

import compare
import evaluate
import generate
import jax
import numpy as np
import pytest
import runs
from configs import cifar10_cpu, cifar10_gpu

from miue_jax import data, methods, parallel


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    mesh = parallel.data_mesh(jax.devices()[:1])
    monkeypatch.setattr(parallel, "data_mesh", lambda: mesh)


@pytest.fixture
def config(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "data.npz"
    images = rng.integers(0, 256, (40, 8, 8, 3), np.uint8)
    labels = np.arange(40) % 2
    np.savez(path, x_train=images, y_train=labels, x_test=images, y_test=labels)
    config = cifar10_cpu.get_config().to_dict()
    for part in ("data", "test"):
        config[part] |= {"name_or_path": str(path), "per_class": None}
    noise = config["sources"]["random_noise"]
    config["sources"] = {"clean": None, "random_noise": noise}
    protocol = config["victims"]["resnet10"]["protocol"]
    protocol |= {"model": "mlp2", "width": 8, "epochs": 2, "batch_size": 8}
    config["victims"] = {
        name: {"protocol": {**protocol, "width": width}, "defense": "none"}
        for name, width in (("narrow", 4), ("wide", 8))
    }
    return config


def test_every_source_meets_every_victim(tmp_path, config):
    workdir = tmp_path / "run"
    results = compare.run(config, workdir)
    found = [(cell["source"], cell["victim"]) for cell in results["cells"]]
    assert found == [
        (source, victim)
        for victim in ("narrow", "wide")
        for source in ("clean", "random_noise")
    ]
    assert [cell["protocol"]["width"] for cell in results["cells"]] == [4, 4, 8, 8]
    assert all(len(cell["final"]["values"]) == 2 for cell in results["cells"])
    assert results["protected"]["random_noise"]["audit"]["max_change"] <= 8
    assert json.loads((workdir / evaluate.RESULTS).read_text()) == results


def test_what_another_process_does_is_left_to_it(tmp_path, config, monkeypatch):
    workdir = tmp_path / "run"
    finished = []
    real = evaluate.run

    def run(config, cell, **options):
        if cell.name == "clean-narrow" and len(finished) < 3:
            raise runs.Busy(f"another process is working in {cell}")
        results = real(config, cell, **options)
        finished.append(cell.name)
        return results

    waits = []
    monkeypatch.setattr(evaluate, "run", run)
    monkeypatch.setattr(compare.time, "sleep", waits.append)
    assert len(compare.run(config, workdir)["cells"]) == 4
    assert finished[-1] == "clean-narrow"
    assert not waits, "it waited though there was something left to do"


def test_with_nothing_else_to_do_it_waits(tmp_path, config, monkeypatch):
    config["sources"] = {"clean": None}
    config["victims"] = {"narrow": config["victims"]["narrow"]}
    waits = []
    monkeypatch.setattr(compare.time, "sleep", waits.append)
    real = evaluate.run

    def run(config, cell, **options):
        if len(waits) < 2:
            raise runs.Busy(f"another process is working in {cell}")
        return real(config, cell, **options)

    monkeypatch.setattr(evaluate, "run", run)
    assert len(compare.run(config, tmp_path / "run")["cells"]) == 1
    assert len(waits) == 2


def test_a_comparison_goes_on_without_repeating_what_is_done(
    tmp_path, config, monkeypatch
):
    workdir = tmp_path / "run"
    real = evaluate.run
    started = []

    def stop_at_third(config, workdir, **options):
        started.append(workdir.name)
        if len(started) == 3:
            raise runs.Stopped(143)
        return real(config, workdir, **options)

    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "run", stop_at_third)
        with pytest.raises(runs.Stopped):
            compare.run(config, workdir)
    assert len(runs.read_json(workdir / evaluate.RESULTS)["cells"]) == 2
    trained = []
    train = evaluate._train
    monkeypatch.setattr(
        evaluate, "_train", lambda *a, **k: trained.append(1) or train(*a, **k)
    )
    monkeypatch.setattr(generate, "_generate", lambda *a, **k: pytest.fail("again"))
    assert len(compare.run(config, workdir)["cells"]) == 4
    assert len(trained) == 4, "two cells of two seeds were left"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["sources"]["random_noise"].update(radius=0.5), "radius"),
        (lambda c: c["sources"].update({"clean-wide": None}), "name 'clean-wide'"),
        (lambda c: c["victims"]["wide"].update(defense="jpg-10"), "jpeg"),
        (lambda c: c["victims"]["wide"]["protocol"].update(epochs=0), "epochs"),
        (lambda c: c.update(seeds=()), "seeds is empty"),
        (lambda c: c.update(seeds=(0, 0)), "they must differ"),
        (lambda c: c.update(generator_seed=2**64), "seed holds 18446744073709551616"),
        (lambda c: c["victims"]["wide"]["protocol"].update(epoch=3), "epoch"),
        (lambda c: c["victims"]["wide"]["protocol"].update(batch_size=41), "of 41"),
        (lambda c: c["victims"]["wide"]["protocol"].update(model="lenet5"), "16"),
        (lambda c: c["test"].update(name_or_path="cifar1O"), "unknown data set"),
    ],
)
def test_bad_input_is_found_before_anything_runs(tmp_path, config, change, message):
    change(config)
    with pytest.raises(ValueError, match=message):
        compare.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_it_made_itself_is_no_run_that_was_stopped(tmp_path, config):
    workdir = tmp_path / "run"
    assert len(compare.run(config, workdir, resume=False)["cells"]) == 4
    with pytest.raises(ValueError, match="holds a run already"):
        compare.run(config, workdir, resume=False)


def test_damaged_results_of_a_cell_are_named(tmp_path, config):
    config["victims"] = {"narrow": config["victims"]["narrow"]}
    workdir = tmp_path / "run"
    compare.run(config, workdir)
    file = workdir / "random_noise-narrow" / evaluate.RESULTS
    file.write_text("{}")
    with pytest.raises(
        ValueError, match=r"random_noise-narrow.results\.json is damaged"
    ):
        compare.run(config, workdir)


@pytest.mark.parametrize("module", [cifar10_cpu, cifar10_gpu])
def test_the_configurations_name_what_exists(module):
    config = module.get_config().to_dict()
    for method in config["sources"].values():
        if method is not None:
            settings = dict(method)
            methods.configure(settings.pop("name"), settings)
    config["data"] = config["test"] = {
        "name_or_path": "shapes",
        "split": "train",
        "per_class": 60,  # a batch of 512 must be filled
    }
    compare._check(config)
    assert data.load(**config["data"]).images.shape == (600, 32, 32, 3)

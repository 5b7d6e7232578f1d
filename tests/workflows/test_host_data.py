"""Each process of a run reads its own shards, and the first what all need."""

import json

import clusters
import numpy as np
import pytest

from miue_jax.budget import Budget
from miue_jax.data import artifact, load
from miue_jax.workflows import evaluate, protect

# Not whole rounds of four shards.
_SIZE, _TESTS = 61, 30

# Runs a workflow, and writes which rows of which file this process has read.
_READING = """
import json, pathlib, sys
from miue_jax.data import npz
from miue_jax.train import parallel

real, read = npz._gather, []

def watched(path, *about):
    gather = real(path, *about)
    def note(numbers, out):
        read.append([pathlib.Path(path).name, about[0], numbers.tolist()])
        gather(numbers, out)
    return note

def whole(path, **given):
    found = real_read(path, **given)
    left_out = given.get("except_for", ())
    read.extend([pathlib.Path(path).name, "all of " + x, []] for x in found if
                x in ("x_train", "x_test", "images") and x not in left_out)
    return found

real_read, npz.read, npz._gather = npz.read, whole, watched

import jax
from miue_jax import cli, victims
status = cli.main(sys.argv[2:])
pathlib.Path(f"{sys.argv[1]}.{jax.process_index()}").write_text(json.dumps(read))
sys.exit(status)
"""


@pytest.fixture
def start():
    with clusters.starting() as start_one:
        yield start_one


def _write(path, seed=0):
    rng = np.random.default_rng(seed)
    sizes = {"train": _SIZE, "test": _TESTS}
    images = {
        f"x_{k}": rng.integers(0, 256, (n, 8, 8, 3), np.uint8) for k, n in sizes.items()
    }
    labels = {f"y_{k}": np.arange(n) % 3 for k, n in sizes.items()}
    np.savez(path, **images, **labels)
    return path


def _own(index, count, size):
    """The images that a process's shards hold; the last one fills the others up."""
    mine = [k for k in range(size) if k % 4 // (4 // count) == index]
    missing = [s for s in range(4) if s // (4 // count) == index and s >= size % 4]
    return sorted(mine + [size - 1] * (len(missing) if size % 4 else 0))


def _read(folder, name, index):
    """How often a process has read each image of each array."""
    found = {}
    for file, what, numbers in json.loads((folder / f"{name}.{index}").read_text()):
        found.setdefault((file, what), []).extend(numbers)
    return {key: sorted(numbers) for key, numbers in found.items()}


_PROTECT = ("--generator=random_noise", "--num-shards=4", "--quiet")
_STREAMED = (
    *("--generator=mi_ue/interleaved", "--generator.model=mlp2", "--num-shards=4"),
    *("--generator.width=16", "--generator.batch-size=16", "--generator.epochs=2"),
    *("--quiet", "--stream"),
)
_EVALUATE = (
    *("--victim.model=linear", "--victim.epochs=1", "--seeds", "0"),
    *("--num-shards=4", "--quiet"),
)


_slow = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("protect", 2),
        pytest.param("streamed", 2, marks=_slow),
        pytest.param("streamed", 4, marks=_slow),
        pytest.param("protect", 4, marks=_slow),
        pytest.param("evaluate", 2, marks=_slow),
        pytest.param("evaluate", 4, marks=_slow),
        pytest.param("purified", 2, marks=_slow),
    ],
)
def test_a_process_reads_the_images_of_its_own_shards_only(
    tmp_path, start, name, count
):
    data = _write(tmp_path / "data.npz")
    made = tmp_path / "made" / protect.ARTIFACT
    one, many = tmp_path / "one", tmp_path / "many"
    command = ["protect", data, *_PROTECT]
    if name == "streamed":
        command = ["protect", data, *_STREAMED]
    elif name != "protect":
        made.parent.mkdir()
        clean = load(data)
        delta = np.full(clean.images.shape, 2 / 255, np.float32)
        protected = artifact.build(clean, delta, budget=Budget(), metadata={})
        artifact.save(made, protected)
        defense = ["--defense=bit_depth-3"] if name == "purified" else []
        command = ["evaluate", made, data, *defense, *_EVALUATE]
    for folder, processes in ((one, 1), (many, count)):
        clusters.finish(
            [
                start(
                    *(tmp_path / folder.name, *command, f"--workdir={folder}"),
                    program=_READING,
                    env=env,
                )
                for env in clusters.cluster(processes, devices=4 // processes)
            ]
        )
    for index in range(count):
        found = _read(tmp_path, "many", index)
        assert not [key for key in found if str(key[1]).startswith("all")]
        files = {file for file, _ in found}
        images = [data.name, made.name]
        if name in ("protect", "streamed"):
            images.pop()
        # What the first process alone makes, and reads again.
        own = {"purified.npz"} | ({"protected.images.npy"} if index == 0 else set())
        assert files - own == {*images}
        for (file, _), numbers in found.items():
            size = _TESTS if len(images) > 1 and file == data.name else _SIZE
            if name == "streamed":
                mine = range(size) if index == 0 else _own(index, count, size)
                assert set(numbers) == set(mine)
            elif index:
                assert numbers == _own(index, count, size), file
            else:
                # For the fingerprint; to check or to make an artifact; to purify.
                assert set(numbers) == set(range(size)), file
                times = 3 if name == "purified" else 2
                assert len(numbers) <= times * size, file
    if name == "protect":
        for file in (protect.ARTIFACT, "protected.delta.npy"):
            assert (one / file).read_bytes() == (many / file).read_bytes()
    if name in ("protect", "streamed"):
        return
    # Sums over four devices are rounded otherwise in one process and in four.
    results = [json.loads((x / evaluate.RESULTS).read_text()) for x in (one, many)]
    for key in ("fingerprints", "final", "test_accuracy"):
        assert results[0][key] == results[1][key]


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("changed", "the images of shard 3 of the data are not the same in process 0"),
        pytest.param("labels", "labels or classes of the data are not", marks=_slow),
        pytest.param("missing", "no such file or folder", marks=_slow),
        pytest.param("cut", "truncated, damaged or not a file of arr", marks=_slow),
    ],
)
def test_data_that_are_bad_for_one_process_end_all(tmp_path, start, fault, said):
    good, bad = (_write(tmp_path / f"{x}.npz") for x in ("good", "bad"))
    content = good.read_bytes()
    with np.load(good) as arrays:
        where = content.index(arrays["x_train"][3].tobytes())
        labels = content.index(arrays["y_train"].tobytes())
    changed = bytearray(content)
    changed[where] ^= 1
    if fault == "labels":
        with np.load(good) as arrays:
            given = dict(arrays)
        given["y_train"] = np.roll(given["y_train"], 1)
        np.savez(bad, **given)
    elif fault == "missing":
        bad.unlink()
    else:
        bad.write_bytes(changed if fault == "changed" else content[:labels])
    run = f"--workdir={tmp_path / 'run'}"
    processes = [
        start("protect", data, *_PROTECT, run, env=env)
        for data, env in zip((good, bad), clusters.cluster(2, devices=2), strict=True)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=200)
        assert process.returncode == 2, errors
        (line,) = clusters.lines(errors)
        assert said in line
    assert not (tmp_path / "run").exists()

"""Files, configurations and own parts that no command may accept."""

import io
import json
import pathlib
import pickle
import tarfile
import zipfile
from collections.abc import Iterator

import numpy as np
from PIL import Image

from tests.faults import commands as miue
from tests.faults import trials

_RUN = ("--quiet", "--workdir", "new")
_VICTIM = ("--victim.model", "linear", "--victim.epochs", "1", "--seeds", "0")
_SMALL_VICTIM = (*_RUN, *_VICTIM)

_CONFIGS = {
    "syntax": "def get_config(:\n",
    "imports": "import no_such_module\n",
    "raises": 'def get_config():\n    raise RuntimeError("mine")\n',
    "raises_lines": 'def get_config():\n    raise KeyError("one\\ntwo")\n',
    "exits": "import sys\nsys.exit(3)\n",
    "nothing": "x = 1\n",
    "none": "def get_config():\n    return None\n",
    "number": "def get_config():\n    return 3\n",
    "list": "def get_config():\n    return [1, 2]\n",
    "unknown": 'def get_config():\n    return {"no_such": 1}\n',
    "argument": "def get_config(name):\n    return {}\n",
    "wrong_type": 'def get_config():\n    return {"seed": "three", "seeds": 3}\n',
    "wrong_data": 'def get_config():\n    return {"data": 3, "train": 3}\n',
    "wrong_split": 'def get_config():\n    return {"data": {"split": 3}}\n',
    "wrong_part": (
        "def get_config():\n"
        '    return {"generator": 3, "victim": 3, "generators": 3, "victims": 3}\n'
    ),
    "null": "\0",
    "recursion": "def get_config():\n    return get_config()\n",
    "assertion": "def get_config():\n    assert False\n",
}
_OWN = """\
import numpy as np
not_callable = 3

def raises(*arguments, **settings):
    raise RuntimeError("mine")

def raises_lines(*arguments, **settings):
    raise KeyError("one\\ntwo")

def exits(*arguments, **settings):
    raise SystemExit(3)

def none(*arguments, **settings):
    return None

# Generators: functions of the whole data.
def raising_noise(key, images, labels):
    raise RuntimeError("mine")

def none_noise(key, images, labels):
    return None

def exiting_noise(key, images, labels):
    raise SystemExit(3)

def small_noise(key, images, labels):
    return images[:1, :1] * 0

def nan_noise(key, images, labels):
    return images * float("nan")

def wide_noise(key, images, labels):
    return images * 0 + 1

def needs_noise(key, images, labels, *, needed):
    return images * 0

# Defenses.
def raising_defense(key, images, labels):
    raise RuntimeError("mine")

def none_defense(key, images, labels):
    return None

def small_defense(key, images, labels):
    return images[:3]

def float_defense(key, images, labels):
    return images / 255.0

def exiting_defense(key, images, labels):
    raise SystemExit(3)

def raising_training(image_shape, num_classes):
    raise RuntimeError("mine")

def none_training(image_shape, num_classes):
    return None

# Models.
def raising_model(num_classes):
    raise RuntimeError("mine")

def none_model(num_classes):
    return None

# Data.
def raising_data(split):
    raise RuntimeError("mine")

def exiting_data(split):
    raise SystemExit(3)

def none_data(split):
    return None

def long_data(split):
    return np.zeros((4, 8, 8, 3), np.uint8), np.arange(5) % 2

def text_data(split):
    return "images", "labels"

def nan_data(split):
    return np.full((4, 8, 8, 3), np.nan), np.arange(4) % 2
"""
_NOISES = ("raising", "none", "exiting", "small", "nan", "wide", "needs")
_DEFENSES = (
    *("raising_defense", "none_defense", "small_defense", "float_defense"),
    *("exiting_defense", "raising_training", "none_training", "raises", "none"),
)
_DATA = ("raising", "exiting", "none", "long", "text", "nan")


class _Evil:
    """A pickle of it writes a file when it is loaded."""

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return pathlib.Path.touch, (pathlib.Path("executed"),)  # type: ignore


def write(folder: pathlib.Path) -> None:
    """Makes a folder with right and wrong inputs of every kind."""
    folder.mkdir()
    trials.write_inputs(folder)
    _runs(folder)
    _arrays(folder)
    _pictures(folder)
    _photos(folder)
    _foreign(folder)
    for name, text in _CONFIGS.items():
        (folder / f"config_{name}.py").write_text(text)
    (folder / "own.py").write_text(_OWN)
    (folder / "own_broken.py").write_text("import no_such_module\n")
    (folder / "own_exits.py").write_text("raise SystemExit(3)\n")


def _runs(folder: pathlib.Path) -> None:
    """Finished runs, and damaged copies of what they made."""
    for arguments in (
        ("protect", "data.npz", "--generator", "random_noise", "--workdir", "made"),
        (
            "evaluate",
            "data.npz",
            "data.npz",
            "--workdir",
            "victim",
            "--quiet",
            *_VICTIM,
        ),
        (*trials.SWEEP[:-1], "swept"),
    ):
        ended = miue.run(arguments, folder)
        if ended.status != 0:
            raise RuntimeError(f"{miue.shown(arguments)}: {ended.err}")
    for name in ("protected.npz", "protected.delta.npy"):
        (folder / name).write_bytes((folder / "made" / name).read_bytes())
    results = (folder / "swept" / "results.json").read_text()
    (folder / "results.json").write_text(results)
    whole = (folder / "protected.npz").read_bytes()
    flipped = bytearray(whole)
    flipped[len(flipped) // 2] ^= 1
    alone = folder / "alone"
    alone.mkdir()
    (alone / "protected.npz").write_bytes(whole)
    for name, content in (("cut", whole[: len(whole) // 2]), ("bit", flipped)):
        (folder / f"{name}.npz").write_bytes(content)
        (folder / f"{name}.delta.npy").write_bytes(
            (folder / "protected.delta.npy").read_bytes()
        )
    plain = json.loads(results)
    for name, value in {
        "list": [1, 2],
        "other": {"a": 1},
        "no_cells": {**plain, "cells": None},
        "odd_cells": {**plain, "cells": [1]},
        "half": {"cells": plain["cells"]},
        "planned": {"planned": 3},
        "entries": {"entries": [{}]},
    }.items():
        (folder / f"results_{name}.json").write_text(json.dumps(value))
    (folder / "results_cut.json").write_text(results[: len(results) // 2])
    (folder / "results_bytes.json").write_bytes(b"\xff\xfe\x00")
    (folder / "missing.md").write_text("<!-- table: no_such.json -->\n<!-- end -->\n")
    (folder / "bytes.md").write_bytes(b"\xff\xfe\x00")


def _arrays(folder: pathlib.Path) -> None:
    images, labels = np.zeros((8, 8, 8, 3), np.uint8), np.arange(8) % 2
    images[::2] = 9
    for name, change in {
        "no_labels": {"labels": None},
        "no_images": {"images": None},
        "long": {"labels": np.arange(9) % 2},
        "text_labels": {"labels": np.array(["a"] * 8)},
        "negative": {"labels": labels - 1},
        "gap": {"labels": labels * 2},
        "one_class": {"labels": labels * 0},
        "huge_label": {"labels": labels * (2**40)},
        "nan": {"images": np.full((8, 8, 8, 3), np.nan)},
        "bright": {"images": np.full((8, 8, 8, 3), 2.0)},
        "flat": {"images": images.reshape(8, -1)},
        "channels": {"images": np.zeros((8, 8, 8, 4), np.uint8)},
        "transposed": {"images": np.zeros((8, 3, 8, 8), np.uint8)},
        "empty": {"images": images[:0], "labels": labels[:0]},
        "thin": {"images": np.zeros((8, 0, 8, 3), np.uint8)},
        "complex": {"images": images.astype(complex)},
        "few_names": {"class_names": np.array(["a"])},
    }.items():
        arrays = {"images": images, "labels": labels, **change}
        given = {k: v for k, v in arrays.items() if v is not None}
        np.savez(folder / f"array_{name}.npz", **given)
    np.savez(folder / "array_pickled.npz", images=np.array([_Evil()]), labels=labels)
    np.save(folder / "pickled.npy", np.array([_Evil()]), allow_pickle=True)
    (folder / "array_text.npz").write_text("no archive\n")
    (folder / "array_nothing.npz").write_bytes(b"")
    whole = (folder / "data.npz").read_bytes()
    (folder / "array_cut.npz").write_bytes(whole[: len(whole) // 2])
    _zip(folder / "array_bomb.npz", {"images.npy": _header((2**40, 32, 32, 3))})
    _zip(folder / "array_wide.npz", {"images.npy": _header((-1, 32, 32, 3))})
    delta = np.load(folder / "protected.delta.npy")
    for name, value in {
        "nan": delta * np.nan,
        "wide": delta * 0 + 100,
        "short": delta[:3],
        "flat": delta.reshape(-1),
        "text": np.array(["a"]),
        "zero": delta[:, :0],
        "complex": delta.astype(complex),
    }.items():
        np.save(folder / f"delta_{name}.npy", value)
    content = (folder / "protected.delta.npy").read_bytes()
    (folder / "delta_cut.npy").write_bytes(content[: len(content) // 2])
    (folder / "delta_bomb.npy").write_bytes(_header((2**40, 32, 32, 3)))
    (folder / "delta_nothing.npy").write_bytes(b"")
    (folder / "torch_bare.pt").write_bytes(pickle.dumps(_Evil()))
    (folder / "torch_text.pt").write_text("no archive\n")
    _zip(folder / "torch_evil.pt", {"a/data.pkl": pickle.dumps(_Evil())})
    _zip(folder / "torch_empty.pt", {"a/version": b"3"})
    _zip(folder / "torch_none.pt", {"a/data.pkl": pickle.dumps({"a": 1})})
    _zip(folder / "torch_cut.pt", {"a/data.pkl": pickle.dumps([1, 2])[:-1]})


def _header(shape: tuple[int, ...]) -> bytes:
    file = io.BytesIO()
    about = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, about)
    return file.getvalue()


def _zip(path: pathlib.Path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def _photos(folder: pathlib.Path) -> None:
    """Pictures that can be protected."""
    (folder / "photos").mkdir()
    for number in range(2):
        pixels = np.full((48, 64, 3), 100 * number, np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / f"{number}.png")


def _pictures(folder: pathlib.Path) -> None:
    def save(name: str, size: tuple[int, int] = (8, 8)) -> pathlib.Path:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (90, 80, len(name))).save(path)
        return path

    for number in range(2):
        for kind in ("cat", "dog"):
            save(f"sizes/{kind}/{number}.png", (8, 8 + number))
            save(f"text/{kind}/{number}.png")
            save(f"cut/{kind}/{number}.png", (64, 64))
            save(f"beside/{kind}/{number}.png")
            save(f"splits/train/{kind}/{number}.png")
        save(f"one/cat/{number}.png")
        save(f"bare/{number}.png")
    (folder / "text/dog/1.png").write_text("no picture")
    path = folder / "cut/dog/1.png"
    path.write_bytes(path.read_bytes()[:60])
    save("beside/loose.png")
    save("splits/test/bird/0.png")
    save("hollow/cat/0.png")
    (folder / "hollow/dog").mkdir()
    (folder / "nothing").mkdir()
    save("links/cat/0.png")
    save("links/dog/0.png")
    (folder / "links/dog/1.png").symlink_to("no_such.png")
    for name in ("batches.meta", "data_batch_1", "test_batch"):
        path = folder / "cifar_python" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(pickle.dumps(_Evil()))
    (folder / "cifar_cut").mkdir()
    (folder / "cifar_cut/data_batch_1.bin").write_bytes(b"\0" * 3073)
    with tarfile.open(folder / "cifar_python.tar.gz", "w:gz") as archive:
        archive.add(folder / "cifar_python", "cifar")
    whole = (folder / "cifar_python.tar.gz").read_bytes()
    (folder / "cut.tar.gz").write_bytes(whole[: len(whole) // 2])
    (folder / "text.tar").write_text("no archive")


def _foreign(folder: pathlib.Path) -> None:
    (folder / "foreign").mkdir()
    (folder / "foreign/letter.txt").write_text("not a run\n")
    (folder / "file.txt").write_text("not a run\n")
    broken = folder / "broken"
    broken.mkdir()
    (broken / "config.json").write_text("{")
    (broken / "results.json").write_text("[]")


def commands() -> Iterator[tuple[str, ...]]:
    """Yields command lines, each wrong in one way, for the folder of `write`."""
    noise = ("--generator", "random_noise")
    yield ("protec",)
    yield from (("no_such",), ("",), ("--no-such",), ("completion",))
    yield from (("completion", "fish"), ("list", "generator"), ("list", "a", "b"))
    yield from (("export",), ("table",), ("detect",), ("import",), ("sweep-worker",))
    yield from (("sweep-check",), ("sweep", "status"), ("sweep", "run"))
    yield from (("protect", *noise), ("evaluate",), ("sweep",), ("measure",))
    yield from _data(noise)
    yield from _configurations()
    yield from _parts()
    yield from _readers()
    yield from _directories(noise)


def _data(noise: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    names = (
        *("no_labels", "no_images", "long", "text_labels", "negative", "gap"),
        *("one_class", "huge_label", "nan", "bright", "flat", "channels"),
        *("transposed", "empty", "thin", "complex", "few_names", "pickled", "text"),
        *("nothing", "cut", "bomb", "wide"),
    )
    folders = (
        *("sizes", "text", "cut", "beside", "one", "bare", "hollow", "nothing"),
        *("links", "cifar_python", "cifar_cut", "foreign", "splits/test"),
    )
    files = ("cifar_python.tar.gz", "cut.tar.gz", "text.tar", "file.txt", "cut.npz")
    paths = [*(f"array_{name}.npz" for name in names), *folders, *files, "bit.npz"]
    for path in paths:
        yield ("protect", path, *noise, *_RUN)
    for path in (*paths[::4], "splits", "protected.npz", "no_such"):
        yield ("evaluate", "data.npz", path, *_SMALL_VICTIM)
    for path in (*paths[1::4], "sizes"):
        yield ("evaluate", path, "data.npz", *_SMALL_VICTIM)
    for path in paths[2::6]:
        yield ("sweep", path, "--generators", "clean", *_RUN)
        yield ("detect", "protected.npz", path)
        yield ("import", "protected.delta.npy", path, "--output", "new.npz")
    for part in (*(f"own:{name}_data" for name in _DATA), "own:no_such", "own:exits"):
        yield ("protect", part, *noise, *_RUN)
    for part in ("own_broken:data", "own_exits:data", "own:not_callable"):
        yield ("protect", part, *noise, *_RUN)


def _configurations() -> Iterator[tuple[str, ...]]:
    shared = [name for name in _CONFIGS if not name.startswith("wrong")]
    wrong = [name for name in _CONFIGS if name.startswith("wrong")]
    for number, name in enumerate(shared):
        file = ("--config", f"config_{name}.py", *_RUN)
        every = ("protect", "evaluate", "sweep", "measure")
        for command in (every[number % 4], every[(number + 1) % 4]):
            yield (command, *file)
    for name in wrong:
        yield ("protect", "--config", f"config_{name}.py", *_RUN)
    for command in ("evaluate", "sweep"):
        yield (command, "--config", "config_wrong_part.py", *_RUN)
    yield ("evaluate", "--config", "config_wrong_data.py", *_RUN)


def _parts() -> Iterator[tuple[str, ...]]:
    names = [f"own:{name}_noise" for name in _NOISES]
    others = ("own:raises", "own:none", "own:no_such", "own:not_callable")
    broken = ("own_broken:noise", "own_exits:noise", "own:", ":own")
    for part in (*names, *others, *broken):
        yield ("protect", "data.npz", "--generator", part, *_RUN)
    for part in (*(f"own:{name}" for name in _DEFENSES), "own_exits:a", "own:no_such"):
        yield ("evaluate", "data.npz", "data.npz", "--defense", part, *_SMALL_VICTIM)
    for part in (
        "own:raising_model",
        "own:none_model",
        "own:exits",
        "own:not_callable",
    ):
        quick = (*_RUN, "--victim.epochs", "1", "--seeds", "0")
        yield ("evaluate", "data.npz", "data.npz", "--victim.model", part, *quick)
        small = ("--generator", "mi_ue/interleaved", "--generator.epochs", "1")
        yield ("protect", "data.npz", *small, "--generator.model", part, *_RUN)
    yield ("sweep", "data.npz", "--generators", "own:raising_noise", *_RUN)
    yield ("sweep", "data.npz", "--defenses", "own:none_training", *_RUN)


def _readers() -> Iterator[tuple[str, ...]]:
    for path in ("cut.npz", "bit.npz", "data.npz", "file.txt", "foreign", "no_such"):
        yield ("export", path, "--png", "new")
        yield ("detect", path, "data.npz")
    yield ("export", "protected.npz")
    yield ("export", "alone/protected.npz", "--npy", "new.npy")
    yield ("export", "bit.npz", "--npy", "new.npy")
    yield ("detect", "protected.npz", "shapes", "--data.per-class", "4")
    names = ("nan", "wide", "short", "flat", "text", "zero", "complex", "cut", "bomb")
    deltas = [f"delta_{name}.npy" for name in (*names, "nothing")]
    torch = [f"torch_{x}.pt" for x in ("bare", "text", "evil", "empty", "none", "cut")]
    others = ("pickled.npy", "array_cut.npz", "array_pickled.npz", "file.txt")
    for path in (*deltas, *torch, *others, "foreign", "sizes", "nothing", "data.npz"):
        yield ("import", path, "data.npz", "--output", "new.npz")
    results = ("list", "other", "no_cells", "odd_cells", "half", "planned", "entries")
    for name in (*results, "cut", "bytes"):
        yield ("table", f"results_{name}.json")
    for path in ("missing.md", "bytes.md", "no_such.md", "foreign", "no_such.json"):
        yield ("table", path)
    yield ("table", "broken")
    for path in ("foreign", "broken", "made", "file.txt", "no_such", "swept"):
        yield ("measure", path, "--data", "data.npz", *_RUN)
    yield ("measure", "victim", "victim", "--data", "data.npz", *_RUN)
    yield ("measure", "victim", "--data", "shapes", *_RUN)


def _directories(noise: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Working directories that belong to something else."""
    for place in ("foreign", "file.txt", "file.txt/new", "victim", "broken", "swept"):
        yield ("protect", "data.npz", *noise, "--quiet", "--workdir", place)
    for place in ("foreign", "file.txt", "made", "broken"):
        where = ("--quiet", "--workdir", place)
        yield ("evaluate", "data.npz", "data.npz", *_VICTIM, *where)
        yield ("sweep", "data.npz", "--generators", "clean", *where)
        yield ("measure", "victim", "--data", "data.npz", *where)
        yield ("demo", *where)
    made = ("protect", "data.npz", *noise, "--quiet", "--workdir", "made")
    yield (*made, "--no-resume")
    yield (*made, "--seed", "1")
    yield (
        "sweep",
        "--config",
        "sweep.py",
        "--quiet",
        "--workdir",
        "swept",
        "--no-resume",
    )
    yield ("sweep", "--config", "sweep.py", *_RUN, "--devices", "0")
    yield ("sweep", "--config", "sweep.py", *_RUN, "--devices", "1000")

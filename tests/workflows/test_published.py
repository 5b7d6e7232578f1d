"""Nothing that is made for publishing tells who made it, or where."""

import json

import numpy as np
import pytest
from PIL import Image

from miue_jax.data import artifact
from miue_jax.workflows import table
from miue_jax.workflows.sweep import plan, summary

MAKER = "jane_doe"

OWN = """
    import jax.numpy as jnp


    def noise(key, images, labels, *, notes: str = "none", levels: float = 2.0):
        return jnp.full_like(images, levels / 255)
"""


@pytest.fixture
def home(tmp_path):
    """A folder of pictures in the home of a maker."""
    home = tmp_path / MAKER
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            folder = home / "private" / "in" / split / name
            folder.mkdir(parents=True)
            for index in range(6):
                picture = np.full((8, 8, 3), 90 + index, np.uint8)
                Image.fromarray(picture).save(folder / f"{index}.png")
    return home


def _assert_public(path):
    files = [path] if path.is_file() else [f for f in path.rglob("*") if f.is_file()]
    assert files
    for file in files:
        assert MAKER.encode() not in file.read_bytes(), file
        assert b"private" not in file.read_bytes(), file
        # Arrays of text are stored in 32 bits a character.
        assert MAKER.encode("utf-32-le") not in file.read_bytes(), file
        assert "private".encode("utf-32-le") not in file.read_bytes(), file


def test_a_protected_data_set_and_its_exports(miue, home, monkeypatch):
    (home / "mine.py").write_text("\n".join(x[4:] for x in OWN.split("\n")))
    monkeypatch.syspath_prepend(home)
    run = home / "run"
    arguments = [
        *("protect", home / "private" / "in", "--workdir", run, "--quiet"),
        *("--generator", "mine:noise", "--generator.notes", home / "notes.txt"),
    ]
    assert miue(*arguments)[0] == 0
    # A rerun recognizes what it made, whose settings hold less than the run's.
    status, _, errors = miue(*arguments)
    assert (status, errors) == (0, "")
    made = run / "protected.npz"
    status, _, errors = miue(
        "export", made, "--png", home / "png", "--npy", home / "delta.npy"
    )
    assert (status, errors) == (0, "")
    for path in (made, run / "protected.delta.npy", home / "png", home / "delta.npy"):
        _assert_public(path)
    metadata = json.loads((home / "png" / "metadata.json").read_text())
    assert metadata["data"]["name"] == "in"
    assert metadata["generator"]["notes"] == "notes.txt"
    for picture in (home / "png").rglob("*.png"):
        with Image.open(picture) as opened:
            assert opened.info == {}


def test_the_export_of_what_was_made_before(miue, home):
    """Earlier artifacts may hold the whole path of their source."""
    run = home / "run"
    arguments = ("--generator=random_noise", "--workdir", run, "--quiet")
    assert miue("protect", home / "private" / "in", *arguments)[0] == 0
    made = artifact.load(run / "protected.npz")
    data = {"name": str(home / "private" / "in")}
    artifact.save(
        run / "old.npz", made._replace(metadata={**made.metadata, "data": data})
    )
    assert miue("export", run / "old.npz", "--png", home / "png")[0] == 0
    _assert_public(home / "png")


def test_tables_name_no_path_of_a_setting_or_of_data(home):
    path = f"/home/{MAKER}/private/notes"
    spec = {"name": "my_defense:own", "notes": path}
    sweep = plan.Sweep(data=str(home / "private" / "in"), generators=["clean"])
    object.__setattr__(sweep, "defenses", {"own": spec})
    planned = plan.cells(sweep)
    shown = summary.summarize(sweep, {}, {}, {planned[0]: f"{path}: no"}, planned)
    assert MAKER not in str({**shown, "command": ""})
    one = {"mean": 0.5, "std": None, "values": [0.5]}
    results = {
        "train": {"name": path},
        "test": {"name": f"{path}/test.npz"},
        "victim": {"model": "linear", "epochs": 1},
        "defense": spec,
        "seeds": [0],
        "final": one,
        "best": one,
    }
    assert MAKER not in table.render(results)


def test_the_tables_of_a_sweep(miue, home, monkeypatch):
    workdir = home / "sweep"
    arguments = [
        *("sweep", home / "private" / "in", "--workdir", workdir, "--quiet"),
        *("--generators", "clean", "random_noise", "--victims", "tiny"),
    ]
    config = home / "tiny.py"
    config.write_text(
        "def get_config():\n"
        "    tiny = dict(model='linear', epochs=1, batch_size=4)\n"
        "    return dict(victims={'tiny': tiny})\n"
    )
    arguments += ["--config", config]
    monkeypatch.setattr("sys.argv", ["miue", *map(str, arguments)])
    status, _, errors = miue(*arguments)
    assert status == 0, errors
    for name in ("results.json", "table.md", "table.csv"):
        _assert_public(workdir / name)
    assert json.loads((workdir / "results.json").read_text())["data"] == "in"

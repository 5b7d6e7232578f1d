"""Bad input is one line and status 2, for every command."""

import os

import pytest

from miue_jax import cli
from tests.commands.refused import assert_refused, content

COMMANDS = tuple(cli._COMMANDS)

# For each command arguments and what is said; `W` stands for a new directory.
_W = "--workdir=new"
_LINEAR = ["--victim.model=linear", "--victim.epochs=1", "--seeds=0"]
BAD = {
    "protect": [
        (["data.npz"], "--workdir is missing: name a directory for the run"),
        (["data.npz", "--workdir="], "--workdir is missing"),
        (["data.npz", "--workdir"], "Missing value for argument '--workdir'"),
        (["data.npz", "--workdir=foreign"], "foreign is not empty and holds no run"),
        (["data.npz", "--workdir=data.npz"], "data.npz is not empty and holds no run"),
        ([_W, "none.npz"], "none.npz: no such file or folder"),
        ([_W, "shapse"], "unknown data set 'shapse'; did you mean 'shapes'"),
        ([_W, "no_module:f"], "'no_module:f' cannot be imported: No module named"),
        # Two places are a folder of pictures and one to create.
        ([_W, "data.npz", "more"], "data.npz: no pictures in it"),
        ([_W, "--export=round", "data.npz", "more"], "unexpected argument 'more'"),
        ([_W, "--generator=mi_eu"], "unknown generator 'mi_eu'; did you mean 'mi_ue'"),
        ([_W, "--generator=mi_ue/papr"], "mi_ue preset 'papr'; did you mean 'paper'"),
        ([_W], "DATA is missing: name a data set"),
        ([_W, "--generator", ""], "unknown generator ''"),
        ([_W, "--generator=no_module:f"], "generator 'no_module:f' cannot be imported"),
        (
            [_W, "--generator.tempreature=0.2"],
            "unknown option '--generator.tempreature'; did you mean "
            "'--generator.temperature'",
        ),
        (
            [_W, "--generator=random_noise/uniform", "--generator.temperature=3"],
            "unknown option '--generator.temperature'",
        ),
        ([_W, "--generator.radius=wide"], "--generator.radius: could not convert"),
        ([_W, "--generator.radius=0"], "radius is 0.0; allowed: whole gray levels"),
        ([_W, "--generator.epochs", "-3"], "epochs is -3; allowed: whole numbers > 0"),
        ([_W, "--dta.per-class=3"], "did you mean '--data.per-class'"),
        ([_W, "data.npz", "--data.per-class=0"], "per_class is 0"),
        (
            [_W, "data.npz", "--data.split=tets"],
            "split is 'tets'; did you mean 'test'",
        ),
        ([_W, "data.npz", "--classes", "dog"], "'dog'"),
        ([_W, "data.npz", "--fraction=2"], "fraction is 2.0"),
        ([_W, "--export=rund"], "unknown --export 'rund'; did you mean 'round'"),
        ([_W, "shapes", "--seed=99999999999999999999"], "seed holds 9999"),
        ([_W, "--seed", "1", "--seed=2"], "--seed is given twice"),
        ([_W, "--num-shards=0", "data.npz"], "num_shards is 0"),
        ([_W, "--num-shards=few"], "--num-shards: cannot parse 'few'; allowed: {None}"),
        ([_W, "--data.per-class=1", "--data.per_class=2"], "per-class is given twice"),
        ([_W, "--config=none.py"], "none.py: no such configuration file"),
        ([_W, "--config="], "no such configuration file"),
        ([_W, "--radius=8"], "unknown option '--radius'"),
        ([_W, "-x"], "unknown option '-x'"),
    ],
    "protect-folder": [
        ([], "missing: IN, OUT"),
        (["foreign"], "missing: OUT"),
        (["", "out"], "IN is empty: name a folder of pictures"),
        (["foreign", ""], "OUT is empty: name a folder to create"),
        (["none", "out"], "none: no such file or folder"),
        (["foreign", "out"], "foreign: no pictures in it"),
        (["foreign", "out", "more"], "unexpected argument 'more'"),
        (["foreign", "foreign"], "must not be the output"),
        (["foreign", "foreign/out"], "must not lie in the pictures (foreign)"),
        (["foreign", "data.npz"], "data.npz: exists and is not a folder"),
        (["foreign", "data.npz/out"], "data.npz is not a folder"),
        (["foreign", "out", "--workdir="], "--workdir is missing"),
        (["foreign", "out", "--workdir=out/in"], "must not lie in the output"),
        (["foreign", "out", "--workdir=foreign/in"], "the work folder must not"),
        (["foreign", "out", "--strength=0"], "strength is 0; allowed: whole gray"),
        (["foreign", "out", "--strength=33"], "strength is 33; allowed: whole gray"),
        (["foreign", "out", "--strength=2.5"], "--strength: invalid literal for int"),
        (["foreign", "out", "--effort=fats"], "'fats'; did you mean 'fast'"),
        (["foreign", "out", "--format=gif"], "--format"),
        (["foreign", "out", "--seed=-1"], "seed holds -1"),
        (["foreign", "out", "--protector=none"], "none"),
        (["foreign", "out", "--protector=text.md"], "text.md: is no protector ("),
        (["foreign", "out", "--protector=foreign"], "foreign: is no file"),
        (["foreign", "out", "--strenght=3"], "did you mean '--strength'"),
    ],
    "fit-protector": [
        (["shapes"], "missing: --output"),
        (["--output=new"], "missing: DATA"),
        (["shapes", "--output="], "--output is empty: name a file"),
        (["", "--output=new"], "DATA is missing"),
        (["shapse", "--output=new"], "did you mean 'shapes'"),
        (["foreign", "--output=new"], "foreign: no pictures in it"),
        (["data.npz", "--output=new"], "is 8x8: only pictures of at least 16 pixels"),
        (["data.npz", "--output=data.npz"], "is read by this command"),
        (["shapes", "--output=foreign"], "foreign: is a folder"),
        (["shapes", "--output=none/new"], "there is no folder none"),
        (["shapes", "--output=new", "--strength=0"], "strength is 0.0"),
        (["shapes", "--output=new", "--size=8"], "size is 8; allowed: 16 to 1024"),
        (["shapes", "--output=new", "--num-codes=0"], "num_codes is 0"),
        (["shapes", "--output=new", "--fit.steps=0"], "steps is 0"),
        (["shapes", "--output=new", "--fit.model=resnt10"], "did you mean 'resnet10'"),
        (["shapes", "--output=new", "--fit.seed=-1"], "seed holds -1"),
        (["shapes", "--output=new", "--radius=8"], "unknown option '--radius'"),
    ],
    "evaluate": [
        (["data.npz", "data.npz"], "--workdir is missing"),
        (["--workdir="], "--workdir is missing"),
        (
            ["data.npz", "data.npz", *_LINEAR, "--workdir=foreign"],
            "foreign is not empty and holds no run",
        ),
        ([_W, "none.npz", "data.npz"], "none.npz: no such file"),
        ([_W, "data.npz", "none.npz"], "none.npz: no such file"),
        ([_W, "data.npz", "shapes"], "different classes"),
        ([_W, "data.npz"], "TEST is missing"),
        ([_W], "TRAIN is missing"),
        ([_W, "protected.npz", "protected.npz"], "has only a 'train' split"),
        ([_W, "data.npz", "data.npz", "more"], "unexpected argument 'more'"),
        ([_W, "--victim=quik"], "unknown protocol 'quik'; did you mean 'quick'"),
        ([_W, "--victim="], "unknown protocol ''"),
        ([_W, "--victim.epoch=3"], "did you mean '--victim.epochs'"),
        ([_W, "--victim.epochs=few"], "--victim.epochs: invalid literal for int()"),
        (
            [_W, "data.npz", "data.npz", "--victim.model=resnt18"],
            "unknown model 'resnt18'; did you mean 'resnet18'",
        ),
        (
            [_W, "data.npz", "data.npz", "--victim.model=no_module:f"],
            "'no_module:f' cannot be imported",
        ),
        ([_W, "--defense=cutuot-4"], "unknown defense 'cutuot-4'; did you mean 'cut"),
        ([_W, "--defense="], "unknown defense ''"),
        ([_W, "--defense=jpeg"], "missing: --defense.quality INT"),
        ([_W, "--defense=jpeg-x"], "'x' is not a number"),
        ([_W, "--defense=grayscale-3"], "takes no number"),
        ([_W, "--defense=no_module:f"], "defense 'no_module:f' cannot be imported"),
        ([_W, "--defense=cutout", "--defense.siz=3"], "did you mean '--defense.size'"),
        ([_W, "--seeds", "a"], "--seeds: cannot parse 'a'"),
        ([_W, "--seeds", "0.5"], "--seeds: cannot parse '0.5'"),
        ([_W, "data.npz", "data.npz", "--seeds"], "seeds is empty"),
        ([_W, "data.npz", "data.npz", "--seeds", "1", "1"], "they must differ"),
        ([_W, "--seeds=0", "--seeds=1"], "--seeds is given twice"),
        ([_W, "data.npz", "data.npz", "--num-shards=-1"], "num_shards is -1"),
        ([_W, "--evaluate-every=x"], "--evaluate-every: invalid literal"),
        ([_W, "--config=none.py"], "none.py: no such configuration file"),
    ],
    "sweep": [
        (["data.npz"], "--workdir is missing"),
        (["data.npz", "--workdir="], "--workdir is missing"),
        (
            ["data.npz", "--generators", "clean", "--workdir=foreign"],
            "foreign is not empty and holds no run",
        ),
        ([_W, "none.npz"], "none.npz: no such file"),
        ([_W, "protected.npz"], "has only a 'train' split"),
        (
            [_W, "shapes", "--test=shapse", "--generators", "clean"],
            "unknown data set 'shapse'",
        ),
        (
            [_W, "shapes", "--generators", "clean", "radnom_noise"],
            "did you mean 'random_noise'",
        ),
        ([_W, "shapes", "--generators"], "generators is empty"),
        ([_W, "shapes", "--generators", "clean", "clean"], "'clean' is given twice"),
        (
            [_W, "shapes", "--generators", "no_module:f"],
            "'no_module:f' cannot be imported",
        ),
        (
            [_W, "shapes", "--defenses", "nnoe"],
            "unknown defense 'nnoe'; did you mean 'none'",
        ),
        (
            [_W, "shapes", "--defenses", "jpeg"],
            "needs its quality, as in 'jpeg-<quality>'",
        ),
        (
            [_W, "shapes", "--victims", "quik"],
            "unknown protocol 'quik'; did you mean 'quick'",
        ),
        ([_W, "shapes", "--seeds", "0", "0"], "they must differ"),
        ([_W, "shapes", "--generatros", "clean"], "did you mean '--generators'"),
        ([_W, "shapes", "--devices=many"], "--devices: cannot parse 'many'"),
        ([_W, "data.npz", "--devices=0"], "devices is 0; allowed: from 1 to"),
        (
            [_W, "shapes", "--generators", "clean", "--generators=clean"],
            "is given twice",
        ),
        ([_W, "data.npz", "more"], "unexpected argument 'more'"),
        ([_W, "--config=none.py"], "none.py: no such configuration file"),
    ],
    "measure": [
        (["runs"], "--workdir is missing"),
        (["runs", "--workdir="], "--workdir is missing"),
        ([_W], "victims is empty; name at least one"),
        ([_W, "none"], "there is no run directory none"),
        ([_W, "foreign"], "foreign"),
        ([_W, "none", "--estimators.neighbrs=9"], "mean '--estimators.neighbors'"),
        (
            [_W, "none", "--estimators.neighbors=90"],
            "neighbors is 90; it must be below",
        ),
        ([_W, "none", "--per-class=few"], "--per-class: invalid literal for int()"),
        ([_W, "none", "--per-class=1"], "per_class is 1; at least 12"),
        ([_W, "none", "--seed=0", "--seed=1"], "--seed is given twice"),
        ([_W, "none", "--config=none.py"], "none.py: no such configuration file"),
    ],
    "detect": [
        ([], "missing: PROTECTED, DATA"),
        (["protected.npz"], "missing: DATA"),
        (["none.npz", "data.npz"], "none.npz: no such file"),
        (["data.npz", "data.npz"], "not a protected data set"),
        (["protected.npz", "shapse"], "unknown data set 'shapse'; did you mean"),
        (["protected.npz", "no_module:f"], "'no_module:f' cannot be imported"),
        (["protected.npz", "shapes"], "made from another source"),
        (["protected.npz", "data.npz", "--modles=linear"], "did you mean '--models'"),
        (["protected.npz", "data.npz", "--models", "mlp4"], "did you mean 'mlp"),
        (["protected.npz", "data.npz", "--width=x"], "--width: cannot parse 'x'"),
        (["protected.npz", "data.npz", "--json=no/found.json"], "no folder"),
    ],
    "export": [
        ([], "missing: PROTECTED"),
        (["protected.npz"], "name what to write: png (a folder) or npy (a file)"),
        (["none.npz", "--png=png"], "none.npz: no such file"),
        (["data.npz", "--png=png"], "not a protected data set"),
        (["protected.npz", "--png=foreign"], "foreign: exists and is not an empty"),
        (["protected.npz", "--npy=delta.txt"], "end in .npy"),
        (["protected.npz", "--npy=no/delta.npy"], "no folder"),
        (
            ["protected.npz", "--pgn=png"],
            "unknown option '--pgn'; did you mean '--png'",
        ),
        (["protected.npz", "--png=a", "--png=b"], "--png is given twice"),
    ],
    "import": [
        (["delta.npy", "data.npz"], "missing: --output STR"),
        (["none.npy", "data.npz", "--output=o.npz"], "none.npy: no such file"),
        (["protected.delta.npy", "shapse", "--output=o.npz"], "unknown data set"),
        (
            ["protected.delta.npy", "no_module:f", "--output=o.npz"],
            "cannot be imported",
        ),
        (["protected.delta.npy", "data.npz", "--output=o.zip"], "must end in .npz"),
        (
            ["protected.delta.npy", "data.npz", "--output=o.npz", "--norm=l3"],
            "unknown --norm 'l3'; did you mean 'l2'",
        ),
        (
            ["protected.delta.npy", "data.npz", "--output=o.npz", "--radius=0"],
            "radius is in gray levels, from 1 to 255, got 0.0",
        ),
        (
            ["protected.delta.npy", "data.npz", "--output=o.npz", "--radius=1"],
            "2",  # gray levels, which the perturbation has
        ),
        (["data.npz", "data.npz", "--output=o.npz"], "exactly one array of four axes"),
        (["a", "data.npz", "--output=o.npz", "--ouput=x"], "did you mean '--output'"),
    ],
    "table": [
        ([], "missing: PATH"),
        (["none.json"], "none.json"),
        (["none.md"], "none.md"),
        (["foreign"], "results.json"),
        (["results.json"], "none of the runs that have a table"),
        (["text.md"], "text.md"),
        (
            ["results.json", "--chekc"],
            "unknown option '--chekc'; did you mean '--check'",
        ),
    ],
    "demo": [
        (["--workdir="], "--workdir is missing"),
        (["--workdir"], "Missing value for argument '--workdir'"),
        (["--workdir=foreign"], "foreign is not empty and holds no run"),
        (["--workdir=data.npz"], "data.npz is not empty and holds no run"),
        (["--wrkdir=new"], "unknown option '--wrkdir'; did you mean '--workdir'"),
        (["--workdir=a", "--workdir=b"], "--workdir is given twice"),
        (["new"], "unexpected argument 'new'"),
    ],
    "benchmark": [
        (["--cases", "mi_ue_129"], "unknown case 'mi_ue_129'; did you mean 'mi_ue_128"),
        (["--cases", "ssim_512", "ssim_512"], "ssim_512 is named twice"),
        (["--repetitions=0"], "repetitions is 0"),
        (["--threads=0"], "threads is 0"),
        (["--threads=10000"], "threads is 10000; allowed: at most"),
        (["--size=smal"], "unknown --size 'smal'; did you mean 'small'"),
        (["--against=none.whl"], "none.whl: no such wheel"),
        (["--against=text.md"], "text.md: is no wheel"),
        (["--against=data.npz"], "data.npz: is no wheel of miue_jax"),
        (["--output=nowhere/out.json"], "there is no folder nowhere"),
        (["--output=foreign"], "foreign: is a folder"),
        (["--output=results.json"], "results.json is damaged: it has no settings"),
        (["--output="], "--output is empty: name a file"),
        (["--output=out.txt"], "output is out.txt; allowed: names that end with .json"),
        (["--output=s3://bucket/out.json"], "output is s3://bucket/out.json; allowed"),
        (["--against="], "against: no wheel"),
        (["--repetition=3"], "did you mean '--repetitions'"),
    ],
    "list": [
        (["generatros"], "'generatros'; did you mean 'generators'"),
        (["generators", "data"], "unexpected argument 'data'"),
        (["--jsn"], "unknown option '--jsn'; did you mean '--json'"),
        (["--json", "--json"], "--json is given twice"),
        (["--kind=data"], "unknown option '--kind'"),
    ],
    "completion": [([], "name a shell"), (["fish"], "name a shell: bash or zsh")],
    "protec": [([], "unknown command 'protec'; did you mean 'protect'")],
}
CASES = [(name, *case) for name, cases in BAD.items() for case in cases]


@pytest.mark.parametrize(
    ("name", "arguments", "message"), CASES, ids=lambda x: str(x)[:40]
)
def test_bad_input_is_one_line_and_status_two(miue, site, name, arguments, message):
    before = content(site)
    assert_refused(miue(name, *arguments), name, message)
    assert content(site) == before


def test_every_command_has_its_cases():
    assert set(COMMANDS) <= BAD.keys()
    assert all(len(BAD[name]) >= 5 for name in COMMANDS)


def test_words_are_not_broken_where_the_terminal_is_narrow(miue, site, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    long = "x" * 90
    result = miue("protect", f"--export={long}", "--workdir=new")
    assert_refused(result, "protect", f"unknown --export '{long}'; allowed: drop_neg")
    assert os.environ["COLUMNS"] == "40"


def test_a_measurement_is_not_written_beside_what_is_there(miue, site):
    arguments = ["evaluate", "data.npz", "data.npz", *_LINEAR, "--quiet"]
    assert miue(*arguments, "--workdir=victim")[0] == 0
    before = content(site)
    result = miue(
        *("measure", "victim", "--data=data.npz", "--per-class=12", "--quiet"),
        *("--protected=protected.npz", "--workdir=foreign"),
    )
    assert_refused(result, "measure", "foreign is not empty and holds no run")
    assert content(site) == before

"""`miue protect` has two forms: a folder of pictures, and a data set."""

import pytest

from miue_jax import _folder_command, _protect_command

FOLDER = [
    "IN OUT",
    "IN OUT --quiet",
    "--quiet IN OUT",
    "--no-quiet IN OUT",
    "--seed 3 IN OUT",
    "IN --seed 3 OUT",
    "--seed=3 IN OUT",
    "--workdir RUN IN OUT",
    "IN OUT --workdir RUN",
    "IN OUT -h",
    "IN OUT --help",
    "--strength 4 IN OUT",
    "IN --strength 4 OUT",
    "--strength=4 IN OUT",
    "--skip-unreadable IN OUT",
    "--skip_unreadable IN OUT",
    "IN --no-skip-unreadable OUT",
    "--strip-location IN OUT",
    "--strip_location IN OUT",
    "--no-measure IN OUT",
    "--no_measure IN OUT",
    "IN OUT --effort=strong",
    "IN OUT --format webp",
    "IN OUT --protector mine.safetensors",
    "IN OUT more",
    "IN --strength 4",
    "--seed -1 IN OUT",
    "IN OUT --strenght 4",
]
DATA = [
    "",
    "DATA",
    "--help",
    "-h",
    "DATA -h",
    "DATA --help",
    "DATA --workdir RUN",
    "--workdir RUN DATA",
    "--workdir=RUN DATA",
    "--quiet DATA --workdir RUN",
    "DATA --quiet --workdir RUN",
    "--seed 3 DATA --workdir RUN",
    "--seed -1 DATA --workdir RUN",
    "DATA --resume --workdir RUN",
    "--resume DATA --workdir RUN",
    "--no-resume DATA --workdir RUN",
    "--no_resume DATA --workdir RUN",
    "--device-invariant DATA --workdir RUN",
    "--no-device_invariant DATA --workdir RUN",
    "DATA --classes a b --workdir RUN",
    "--classes a b --workdir RUN DATA",
    "--workdir RUN DATA --classes a b c",
    "--generator mi_ue DATA --workdir RUN",
    "--generator.views robust DATA --workdir RUN",
    "DATA --workdir RUN --generator.views robust",
    "--generator.milestones 0.3 0.6 --workdir RUN DATA",
    "DATA --generator adversarial_poisoning --generator.milestones 0.3 0.6 0.8",
    "DATA --data.per-class 3 --workdir RUN",
    "--data.per_class 3 DATA --workdir RUN",
    "--data.data-dir PLACE DATA --workdir RUN",
    "--config file.py DATA --workdir RUN",
    "--config=file.py --workdir=RUN",
    "--export round DATA --workdir RUN",
    "--fraction 0.5 DATA --workdir RUN",
    "--select_seed 1 DATA --workdir RUN",
    "--num-shards 2 DATA --workdir RUN",
    "--checkpoint-every 4 DATA --workdir RUN",
    "--generatr mi_ue DATA",
]


@pytest.mark.parametrize("line", FOLDER)
def test_it_is_asked_for_a_folder(line):
    assert _protect_command._names_folders(line.split())


@pytest.mark.parametrize("line", DATA)
def test_it_is_asked_for_a_data_set(line):
    assert not _protect_command._names_folders(line.split())


def test_every_option_of_a_generator_belongs_to_data_sets():
    # User-defined generators may have options of any kind.
    assert not _protect_command._names_folders(
        ["--generator.strength", "1", "2", "3", "DATA"]
    )


def test_both_forms_know_what_they_share():
    folder = _protect_command._option_names(_folder_command.FolderOptions)
    data = _protect_command._option_names(_protect_command.ProtectOptions)
    assert folder & data == {"--quiet", "--seed", "--workdir"}

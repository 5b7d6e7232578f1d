"""Published texts name files, not the folders of the person who made them."""

import pytest

from miue_jax.data import public


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("/home/jane/photos", "photos"),
        ("/home/jane/photos/", "photos"),
        ("/home/jane doe/my photos", "my photos"),
        ("~/photos", "photos"),
        ("~jane/photos", "photos"),
        ("../jane/photos", "photos"),
        ("./jane/photos", "photos"),
        (r"C:\Users\jane\photos", "photos"),
        (r"\\server\jane\photos", "photos"),
        ("/", ""),
        ("see /home/jane/run/log.txt, line 3", "see log.txt, line 3"),
        ("loss is nan; see /home/jane/a", "loss is nan; see a"),
        ("file=/home/jane/a b=~/c", "file=a b=c"),
        ("(/home/jane/a)", "(a)"),
        ("s3://jane/run/a.npz", "a.npz"),
        ("see gs://jane/run/a.npz.", "see a.npz."),
    ],
)
def test_paths_are_reduced_to_their_last_part(given, kept):
    assert public.without_folders(given) == kept
    assert public.without_folders({"a": [given, (given,)]}) == {"a": [kept, [kept]]}


@pytest.mark.parametrize(
    "text",
    [
        *("photos", "mi_ue/interleaved", "imagenet_resized/32x32", "my_noise:stripes"),
        *("https://arxiv.org/abs/2603.03725", "8/255", "a / b", "1.5", "", "n/a"),
        "runs/photos/protected.npz",
    ],
)
def test_what_is_no_path_of_a_maker_stays(text):
    assert public.without_folders(text) == text


def test_other_values_stay():
    value = {"a": [1, 2.5, None, True]}
    assert public.without_folders(value) == value


def test_a_command_is_reduced_argument_by_argument():
    given = ["miue", "sweep", "/home/jane doe/in", "--workdir", "~/a", "--x=/tmp/b c"]
    assert public.command(given) == "miue sweep in --workdir a '--x=b c'"

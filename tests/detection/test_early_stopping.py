"""The peak of an accuracy curve."""

import pytest

from miue_jax.detection import Peak, early_stopping


def test_the_peak_is_the_first_highest_and_the_final_value_the_last():
    assert early_stopping([0.2, 0.5, 0.4, 0.5, 0.1], [2, 4, 6, 8, 9]) == Peak(
        accuracy=0.5, epoch=4, final=0.1
    )


def test_a_diverged_epoch_is_no_peak():
    accuracy, epoch, final = early_stopping([0.3, float("nan")], [1, 2])
    assert (accuracy, epoch) == (0.3, 1)
    assert final != final


@pytest.mark.parametrize(
    ("accuracies", "epochs", "message"),
    [
        ([], [], "two lists of one length"),
        ([0.1, 0.2], [1], r"shapes \(2,\) and \(1,\)"),
        ([float("nan")], [1], "every accuracy is NaN"),
        ([0.2, 45.0], [1, 2], r"in \[0, 1\], got \[0.2, 45.0\]"),
        ([0.2, -0.1], [1, 2], r"in \[0, 1\]"),
        ([0.2, 0.3], [2, 2], r"increase, got \[2, 2\]"),
    ],
)
def test_bad_input(accuracies, epochs, message):
    with pytest.raises(ValueError, match=message):
        early_stopping(accuracies, epochs)

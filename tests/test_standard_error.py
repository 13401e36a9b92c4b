"""What compiled code writes to standard error: the noise is kept back, everything else comes through."""

import os
import re

import pytest

from t2t import standard_error


def test_noise_is_kept_back_and_all_lines_are_returned(capfd):
    with standard_error.without(re.compile("noise")) as lines:
        os.write(2, b"noise 1\nuseful\n")
        os.write(2, b"noise 2\nno end of line")
    assert capfd.readouterr().err == "useful\nno end of line"
    assert lines == ["noise 1", "useful", "noise 2", "no end of line"]


def test_what_was_written_before_an_error_comes_through_and_the_stream_is_given_back(capfd):
    def fails():
        with standard_error.without(re.compile("noise")):
            os.write(2, b"cause\nnoise\n")
            raise ValueError

    with pytest.raises(ValueError):
        fails()
    os.write(2, b"later noise\n")
    assert capfd.readouterr().err == "cause\nlater noise\n"

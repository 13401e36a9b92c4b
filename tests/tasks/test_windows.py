"""Windows of the characters of one text."""

from __future__ import annotations

import gzip
from dataclasses import replace

import numpy as np
import pytest

from t2t import tasks
from t2t.data import Data
from t2t.data.pipeline import batches, evaluation_batches
from t2t.errors import UserError
from t2t.tasks.sources.windows import CharacterWindows, text_of
from t2t.vocabularies import Characters

TEXT = "".join(chr(97 + n * n % 26) if n % 7 else "\n" for n in range(3_000))


@pytest.fixture(scope="module")
def data():
    tasks.add_character_windows("windows_of_a_text", text=TEXT, length=16, replace=True)
    return Data(task="windows_of_a_text", inputs_length=1, targets_length=15, batch_size=8, shards=1, shuffle_buffer=0)


def test_training_has_random_windows_of_the_first_part_of_the_text(data):
    source = CharacterWindows(TEXT, length=16)
    windows = [one["inputs"] + one["targets"] for block in range(2) for one in source.read_block("train", block)]
    assert source.num_input_examples("train") == 2_700
    assert all(len(window) == 16 and window in TEXT[:2_700] for window in windows)
    assert len({TEXT.index(window) % 16 for window in windows}) == 16  # at any place
    assert windows == [
        one["inputs"] + one["targets"]
        for block in range(2)
        for one in CharacterWindows(TEXT, length=16).read_block("train", block)
    ]


def test_the_windows_held_out_are_the_end_of_the_text_once(data):
    read = evaluation_batches(replace(data, split="validation"), "decoder", 8)
    rows = [row for batch, raws in read for row in batch.targets[: len(raws)]]
    text = "".join(Characters.of(TEXT).decode(row) for row in rows)
    assert text == TEXT[2_700 : 2_700 + 300 // 16 * 16]


def test_all_characters_but_the_first_are_predicted_and_there_is_no_eos(data):
    stream = batches(data, "decoder")
    batch = next(stream)
    stream.close()
    np.testing.assert_array_equal(batch.weights, np.tile([0.0] + [1.0] * 15, (8, 1)))
    assert (batch.targets >= 3).all()
    np.testing.assert_array_equal(batch.decoder.ids[:, 1:], batch.targets[:, :-1])


def test_a_file_may_be_compressed_and_what_cannot_be_read_is_refused(tmp_path):
    path = tmp_path / "text.gz"
    path.write_bytes(gzip.compress("é\r\n".encode()))
    assert text_of(path) == "é\r\n"
    (tmp_path / "latin").write_bytes("abcé".encode("latin-1"))
    with pytest.raises(UserError, match=r"latin: is not UTF-8: .* at byte 3."):
        text_of(tmp_path / "latin")
    with pytest.raises(UserError, match=r"missing: cannot be read: No such file or directory."):
        text_of(tmp_path / "missing")
    with pytest.raises(UserError, match=r"length 16 .*: split 'validation' has 10 characters. Nearest: 10."):
        CharacterWindows(TEXT[:100], length=16)
    with pytest.raises(UserError, match=r"length 1 of windows of characters: must be 2 or more. Nearest: 2."):
        CharacterWindows(TEXT, length=1)

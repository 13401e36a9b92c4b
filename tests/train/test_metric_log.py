"""What is written is what is read, on one run, across a crash and with numbers JSON does not know."""

import json
import logging
import math
import struct
import subprocess
import sys

import numpy as np
import pytest

from t2t.errors import UserError
from t2t.train.metric_log import FILE, MetricsWriter, read


def steps(run):
    return [line["step"] for line in read(run)]


def test_reads_what_was_written(tmp_path):
    with MetricsWriter(tmp_path / "run") as writer:
        writer.write(10, {"loss": np.float32(2.5), "eval/reverse_words/exact_match": 1})
        writer.write(20, {"loss": 2.0})
    first, second = read(tmp_path / "run")
    assert (first["step"], first["loss"], first["eval/reverse_words/exact_match"]) == (10, 2.5, 1.0)
    assert first["time"] > 1.6e9
    assert 0 <= first["elapsed"] <= second["elapsed"]
    assert read(tmp_path / "nothing") == []


def test_not_finite_numbers_are_valid_json_and_come_back(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        writer.write(1, {"a": math.nan, "b": math.inf, "c": -math.inf})

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    json.loads((tmp_path / FILE).read_text(), parse_constant=refuse)
    (line,) = read(tmp_path)
    assert math.isnan(line["a"])
    assert (line["b"], line["c"]) == (math.inf, -math.inf)


def test_resuming_drops_the_lines_after_the_step_it_goes_on_from(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        for step in (10, 20, 30, 40):
            writer.write(step, {"loss": float(step)})
    with MetricsWriter(tmp_path, start=20) as writer:
        assert steps(tmp_path) == [10, 20]
        writer.write(30, {"loss": -1.0})
    assert steps(tmp_path) == [10, 20, 30]
    assert read(tmp_path)[-1]["loss"] == -1.0
    assert sorted(path.name for path in tmp_path.iterdir()) == [FILE, "tensorboard"]


def test_without_a_start_every_line_is_kept(tmp_path):
    for step in (1, 2):
        with MetricsWriter(tmp_path) as writer:
            writer.write(step, {"loss": 0.0})
    assert steps(tmp_path) == [1, 2]


@pytest.mark.parametrize("tail", ['{"step": 3, "lo', '{"step": 3}'[:-1], "\x00\x00"])
def test_a_torn_last_line_is_left_out_told_and_not_written_on(tmp_path, caplog, tail):
    (tmp_path / FILE).write_text('{"step": 1}\n{"step": 2}\n' + tail)
    with caplog.at_level(logging.WARNING):
        assert steps(tmp_path) == [1, 2]
    assert "line 3" in caplog.text
    with MetricsWriter(tmp_path, start=2) as writer:
        writer.write(3, {"loss": 1.0})
    caplog.clear()
    assert steps(tmp_path) == [1, 2, 3]
    assert not caplog.text


@pytest.mark.parametrize("line", ['{"step": 1', "[1]", '{"loss": 1}', '{"step": "one"}'])
def test_a_broken_line_within_is_named(tmp_path, line):
    (tmp_path / FILE).write_text('{"step": 1}\n' + line + '\n{"step": 2}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 2: "):
        read(tmp_path)
    before = (tmp_path / FILE).read_bytes()
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 2: "):
        MetricsWriter(tmp_path, start=1)
    assert (tmp_path / FILE).read_bytes() == before


def test_the_fields_of_every_line_cannot_name_a_metric(tmp_path):
    with MetricsWriter(tmp_path) as writer, pytest.raises(ValueError, match="'time'"):
        writer.write(1, {"time": 1.0})
    assert read(tmp_path) == []


def test_tensorboard_has_the_numbers_and_is_told_what_to_hide(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        writer.write(7, {"loss": 2.5, "bad": math.nan})
    with MetricsWriter(tmp_path, start=7) as writer:
        writer.write(8, {"loss": 2.25})
    events = [event for path in sorted((tmp_path / "tensorboard").iterdir()) for event in _events(path)]
    scalars = {(event.step, value.tag, value.simple_value) for event in events for value in event.summary.value}
    assert scalars == {(7, "loss", 2.5), (8, "loss", 2.25)}
    assert any(
        event.step == 8 and event.session_log.status == 1 for event in events
    )  # START: hides what was at 8 and after


def test_tensorboard_can_read_a_line_as_soon_as_it_is_written(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        writer.write(3, {"loss": 1.5})
        (path,) = (tmp_path / "tensorboard").iterdir()
        assert path.name.startswith("events.out.tfevents.")
        first, second = _events(path)
        assert (first.file_version, second.step) == ("brain.Event:2", 3)
        data = path.read_bytes()
        (size,) = struct.unpack_from("<Q", data)
        for start, stop in ((0, 8), (12, 12 + size)):
            assert struct.unpack_from("<I", data, stop) == (_masked_crc32c(data[start:stop]),)


def _masked_crc32c(data):
    """As TFRecord has it: CRC-32 with Castagnoli's polynomial (RFC 3720), turned right by 15 bits, plus a constant."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return (crc >> 15 | crc << 17) + 0xA282EAD8 & 0xFFFFFFFF


def _events(path):
    from tensorboardX.proto.event_pb2 import Event

    data, at = path.read_bytes(), 0
    while at < len(data):  # TFRecord: length, its checksum, the record, its checksum
        (size,) = struct.unpack_from("<Q", data, at)
        yield Event.FromString(data[at + 12 : at + 12 + size])
        at += 16 + size


def test_needs_no_tensorflow(tmp_path):
    program = "import sys; from t2t.train.metric_log import MetricsWriter; MetricsWriter(sys.argv[1]).close(); assert not {'tensorflow', 'jax'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)

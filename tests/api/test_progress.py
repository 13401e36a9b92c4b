"""What is shown of a run, on a terminal and in a file; where the numbers come from."""

import io
import math
from dataclasses import dataclass

import pytest
from rich.console import Console

from t2t.api.progress import Progress, duration, headline, large, number


@dataclass(frozen=True)
class Result:
    task: str
    metrics: dict[str, float]


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def plain(clock, **options):
    out = io.StringIO()
    return out, Progress(console=Console(file=out, width=80), clock=clock, **options)


def on_terminal(clock, width=100):
    out = io.StringIO()
    return out, Progress(
        console=Console(file=out, force_terminal=True, width=width, color_system=None, legacy_windows=False),
        clock=clock,
    )


def test_plain_lines_come_every_so_often_and_the_first_and_last_always(clock):
    out, progress = plain(clock, every=10)
    progress.on_start(100, 0)
    for step in range(1, 101):
        clock.now = step / 2
        progress.on_log(step, {"loss": 1.0})
    progress.on_end()
    steps = [int(line.split("/")[0].removeprefix("step ")) for line in out.getvalue().splitlines()]
    assert steps == [1, 21, 41, 61, 81, 100]
    assert "\x1b" not in out.getvalue()


def test_a_plain_line_held_back_comes_before_what_follows_it_and_at_the_end(clock):
    out, progress = plain(clock)
    progress.on_start(100, 0)
    progress.on_log(1, {"loss": 1.0})
    progress.on_log(2, {"loss": 1.0})
    progress.on_message("saved")
    progress.on_log(3, {"loss": 1.0})
    progress.on_end()
    progress.on_end()
    assert [line.split()[:2] for line in out.getvalue().splitlines()] == [
        ["step", "1/100"],
        ["step", "2/100"],
        ["saved"],
        ["step", "3/100"],
    ]


def test_a_plain_line_is_one_line_with_everything(clock):
    out, progress = plain(clock)
    progress.on_start(2000, 1000)
    metrics = {
        "loss": 1.25,
        "accuracy": 0.5,
        "tokens_per_second": 12345.0,
        "data_wait": 0.25,
        "learning_rate": 1e-3,
        "step_seconds": 2.0,
    }
    progress.on_log(1100, metrics)
    (line,) = out.getvalue().splitlines()
    assert line == (
        "step 1,100/2,000 (55%)  loss 1.250  accuracy 0.500  tokens/s 12.3k  waiting for data 25%  learning rate 0.001  ETA 30:00"
    )


def test_an_evaluation_is_told_by_task_with_every_metric(clock):
    out, progress = plain(clock)
    progress.on_start(10, 0)
    progress.on_eval(
        5, [Result("reverse_words", {"exact_match": 0.9, "loss": 0.25}), Result("mix/docs", {"loss": 1.5})]
    )
    assert [line.split() for line in out.getvalue().splitlines()] == [
        ["eval", "at", "step", "5", "reverse_words", "exact_match", "0.900", "loss", "0.250"],
        ["eval", "at", "step", "5", "mix/docs", "loss", "1.500"],
    ]


def test_messages_are_not_markup(clock):
    for out, progress in (plain(clock), on_terminal(clock)):
        progress.on_start(1, 0)
        progress.on_message("wrote [bold]runs/[a]/report.html[/bold]")
        progress.on_end()
        assert "wrote [bold]runs/[a]/report.html[/bold]" in out.getvalue()


def test_the_bar_on_a_terminal(clock):
    out, progress = on_terminal(clock)
    progress.on_start(1000, 0)
    progress.on_eval(5, [Result("reverse_words", {"exact_match": 0.9})])
    for step in (10, 20):
        clock.now = float(step)
        progress.on_log(step, {"loss": 2.0, "data_wait": 0.02, "tokens_per_second": 950.0})
    progress.on_end()
    last = out.getvalue().split("eval at step 5")[-1]
    for shown in (
        "step 20/1,000",
        "2%",
        "ETA 16:20",
        "loss 2.000",
        "tokens/s 950",
        "waiting for data 2%",
        "reverse_words exact_match 0.900",
    ):
        assert shown in last


def test_a_narrow_terminal_leaves_out_whole_numbers_and_keeps_the_bar_at_its_height(clock):
    out, progress = on_terminal(clock, width=40)
    progress.on_start(100, 0)
    progress.on_log(50, {"loss": 2.0, "accuracy": 0.5, "tokens_per_second": 950.0, "learning_rate": 0.125})
    progress.on_end()
    last = out.getvalue().splitlines()[-2:]
    assert "loss 2.000" in out.getvalue()
    assert all(len(line) <= 60 for line in last)
    assert "learning rate" not in out.getvalue()


def test_with_leaves_the_terminal_as_it_was_on_an_error(clock):
    out, progress = on_terminal(clock)

    def interrupted():
        with progress:
            progress.on_log(1, {"loss": 1.0})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert out.getvalue().rstrip().endswith("\x1b[?25h")  # the cursor is shown again


def test_eta_leaves_compilation_out_and_counts_from_the_resumed_step(clock):
    _, progress = plain(clock)
    progress.on_start(2000, 1000)
    assert progress.seconds_left is None
    clock.now = 500.0  # compiling
    progress.on_log(1010, {"step_seconds": 3.0})
    assert progress.seconds_left == 990 * 3.0
    clock.now = 520.0
    progress.on_log(1020, {"step_seconds": 3.0})
    assert progress.seconds_left == 980 * 2.0


def test_the_loss_shown_is_the_one_that_was_logged_last(clock):
    out, progress = plain(clock, every=0)
    progress.on_start(3, 0)
    for step, loss in ((1, 6.0), (2, math.nan), (3, 1.0)):
        progress.on_log(step, {"loss": loss})
    assert [line.split("loss ")[1].split()[0] for line in out.getvalue().splitlines()] == ["6.000", "nan", "1.000"]


def test_before_the_number_of_steps_is_known_none_is_shown(clock):
    out, progress = on_terminal(clock)
    with progress:
        progress.on_message("restoring")
    assert "0/0" not in out.getvalue()
    assert "starting" in out.getvalue()


@pytest.mark.parametrize(
    ("form", "value", "text"),
    [
        (number, 0.0, "0"),
        (number, 12.3456, "12.35"),
        (number, 0.98765, "0.988"),
        (number, 0.00901, "0.00901"),
        (number, 3.2e-5, "3.2e-05"),
        (number, 9999.4, "9999"),
        (number, -1234567, "-1.23M"),
        (number, math.inf, "inf"),
        (large, 174.6e9, "174.60B"),
        (large, 999, "999"),
        (duration, 59.2, "1:00"),
        (duration, 3, "3s"),
        (duration, 3723, "1:02:03"),
        (duration, 2 * 86400 + 3 * 3600 + 5, "2d 03h"),
    ],
)
def test_numbers_for_people(form, value, text):
    assert form(value) == text


def test_the_headline_is_the_tasks_own_metric():
    assert headline({"loss": 1, "perplexity": 2, "rouge1": 3, "rouge2": 4}) == "rouge1"
    assert headline({"perplexity": 2, "loss": 1}) == "loss"
    assert headline({"perplexity": 2}) == "perplexity"

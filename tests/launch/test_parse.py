"""How words of the command line become values, in-process."""

import dataclasses
from typing import Annotated, Literal

import pytest
import tyro

from t2t.api.option_names import nearest_options
from t2t.api.recipes import find
from t2t.errors import UserError
from t2t.launch import parse
from t2t.launch.experiment import SHORT
from t2t.limits import Configuration, Count, Few

RUN = Annotated[str, tyro.conf.Positional]
ALSO = ("--dir", "--vocabulary")


def train(*words, recipe="t5:quickstart"):
    return parse.override(find(recipe)(), words, prog="t2t train", description="", short=SHORT, also=ALSO)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part(Configuration):
    on: bool = True
    count: Count = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Whole(Configuration):
    first: Part = Part()
    second_part: Part = Part(on=False)
    tidy_up: bool = True


def override(*words):
    return parse.override(Whole(), words, prog="t2t some", description="")


@pytest.mark.parametrize(
    "words",
    [
        ["--first.no-on", "--no-tidy-up"],
        ["--first.no_on", "--no_tidy_up"],
        ["--first.on", "False", "--tidy-up", "False"],
        ["--first.on", "false", "--tidy_up", "false"],
        ["--first.on=False", "--tidy-up=false"],
    ],
)
def test_a_yes_or_no_that_is_true_becomes_false(words):
    made = override(*words)
    assert (made.first.on, made.second_part.on, made.tidy_up) == (False, False, False)


@pytest.mark.parametrize("words", [["--second-part.on"], ["--second_part.on", "True"], ["--second-part.on=true"]])
def test_a_yes_or_no_that_is_false_becomes_true(words):
    assert override(*words).second_part.on


def test_neither_true_nor_false_is_told():
    with pytest.raises(
        UserError, match=r"--first\.on 'maybe' is neither True nor False\. Nearest: --first\.on, --first\.no-on"
    ):
        override("--first.on=maybe")
    with pytest.raises(UserError, match=r"--first\.no-on takes no value\. Nearest: --first\.no-on, --first\.on"):
        override("--first.no-on=false")
    with pytest.raises(UserError, match=r"t2t some: Unrecognized options: false$"):
        override("--first.no-on", "false")


@pytest.mark.parametrize("option", ["--data.no-pack", "--model.encoder.no-gated", "--model.decoder.no_final_norm"])
def test_every_true_of_a_recipe_can_be_made_false(option):
    made = train(option)
    path = option.removeprefix("--").replace("no-", "").replace("no_", "").replace("-", "_").split(".")
    before = find("t5:quickstart")()
    for name in path:
        made, before = getattr(made, name), getattr(before, name)
    assert (before, made) == (True, False)


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("--learning-rate", "--optimizer.schedule.peak."),
        ("--learning_rate=3", "--optimizer.schedule.peak."),
        ("--lr", "--optimizer.schedule.peak."),
        ("--batch", "--batch-size."),
        ("--per_device_train_batch_size", "--batch-size."),
        ("--epochs", "--steps."),
        ("--max-steps", "--steps."),
        ("--warmup", "--optimizer.schedule.warmup."),
        ("--warmup-steps", "--optimizer.schedule.warmup."),
        ("--weight-decay", "--optimizer.weight-decay."),
        ("--wd", "--optimizer.weight-decay."),
        ("--output-dir", "--dir."),
        ("--seq-length", "--data.inputs-length, --data.targets-length."),
        ("--max-grad-norm", "--optimizer.clip-norm."),
        ("--gradient-accumulation-steps", "--microbatches."),
        ("--dropout", "--model.dropout."),
        ("--lora-r", "--adapter.rank."),
        ("--lora_alpha=32", "--adapter.alpha."),
        ("--target-modules", "--adapter.targets."),
        ("--heads", "--model.encoder.num-heads, --model.decoder.num-heads."),
        ("--model.encoder.layer", "--model.encoder.num-layers."),
        ("--optimizer.lr", "--optimizer.schedule.peak."),
        ("--stepz", "--steps, --start-from.step, --optimizer.schedule.steps."),
        ("--data.tsk", "--data.task."),
        ("--fp16", "--model.dtype."),
    ],
)
def test_an_unknown_option_is_told_what_was_meant(word, told):
    with pytest.raises(UserError) as caught:
        train(word, "3")
    assert str(caught.value).endswith(f"unknown option {word}. Nearest: {told}")


def test_what_is_like_nothing_gets_the_first_few():
    assert nearest_options("--zzzzz", {"--steps", "--seed"}) == " There are: --seed, --steps."


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["--batch-size", "0"],
            "batch_size 0 (--data.batch-size) is not a whole number from 1 to 1048576. Nearest: 1.",
        ),
        (["--data.batch_size=-8"], "batch_size -8 (--data.batch-size) is not"),
        (
            ["--model.encoder.num-kv-heads", "2", "--model.decoder.num-kv-heads", "0"],
            "num_kv_heads 0 (--model.decoder.num-kv-heads)",
        ),
        (["--optimizer.b1", "nan"], "b1 nan (--optimizer.b1) is not a number from 0 to 0.999999. Nearest: 0.9."),
        (["--optimizer.schedule.peak", "1e400"], "peak inf (--optimizer.schedule.peak)"),
        (["--seed", "1" + "0" * 30], "seed 1000000000000000000000000000000 (--seed)"),
        (["--data.cached", "gs://bucket/x"], "cached 'gs://bucket/x' (--data.cached) is a URL"),
        (["--start-from.run", "a\nb"], "run 'a\\nb' (--start-from.run) contains the control character '\\n'"),
    ],
)
def test_a_value_out_of_range_names_the_option_it_was_given_with(words, told):
    with pytest.raises(UserError) as caught:
        train(*words)
    assert str(caught.value).startswith(told)


def test_a_functions_options_are_checked_alike():
    def command(run: RUN, *, samples: Few = 1, check: bool = True) -> tuple[str, int, bool]:
        return run, samples, check

    command.__annotations__ = {"run": RUN, "samples": Few, "check": bool, "return": tuple[str, int, bool]}
    assert parse.call(command, ["a", "--check", "False"], prog="p") == ("a", 1, False)
    assert parse.call(command, ["a", "--no_check", "--samples=3"], prog="p") == ("a", 3, False)
    with pytest.raises(UserError, match=r"samples 2000 \(--samples\) is not a whole number from 1 to 1024"):
        parse.call(command, ["a", "--samples", "2000"], prog="p")
    with pytest.raises(UserError, match=r"p: unknown option --sampels\. Nearest: --samples"):
        parse.call(command, ["a", "--sampels", "2"], prog="p")


def test_a_value_that_is_not_one_of_the_choices_is_told_with_the_nearest():
    def command(*, quantize: Literal["none", "int8", "nf4"] = "none") -> None:
        """Do nothing.

        Args:
            quantize: a format.
        """

    with pytest.raises(UserError, match=r"^t2t: --quantize 'nf5' is not one of its values\. Nearest: nf4\b"):
        parse.call(command, ["--quantize", "nf5"], prog="t2t")

"""Pictures hold every value they should, and may stand in one page together."""

import math
import re
import xml.etree.ElementTree as ElementTree

import pytest

from t2t.api.curves import COLOURS, POINTS, Plot, _label, svg, thinned


def texts(picture):
    return [element.text for element in ElementTree.fromstring(picture).iter() if element.tag.endswith("text")]


def luminance(colour):
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_a_picture_is_xml_named_and_takes_the_colours_and_width_of_the_page():
    picture = svg(Plot(name='a < b & "c"', lines={"training": [(0, 1.0), (10, 2.0)]}))
    root = ElementTree.fromstring(picture)
    assert root.get("aria-label") == 'a < b & "c" over steps'
    assert root.get("width") is None
    assert root.get("viewBox")
    assert "currentColor" in picture
    assert "<style" not in picture
    assert "font-family" not in picture
    assert set(re.findall(r"#[0-9a-f]{6}\b", picture)) == {COLOURS[0]}


def test_names_of_lines_are_text_and_not_formulas():
    names = ["a_b", "$x$", "<i>", "under_score$"]
    assert set(names) <= set(texts(svg(Plot(name="p", lines={name: [(1, 1.0)] for name in names}))))


def test_marks_of_two_pictures_differ_and_those_of_one_do_not_change():
    lines = {"training": [(0, 1.0), (10, 2.0)]}
    one, again, other = (svg(Plot(name=name, lines=lines)) for name in ("one", "one", "other"))
    assert one == again
    ids = [set(re.findall(r'id="([^"]*)"', picture)) for picture in (one, other)]
    assert ids[0]
    assert not ids[0] & ids[1]


@pytest.mark.parametrize(
    "series", [[], [(1, math.nan)], [(1, 0.0)], [(5, 1.0)], [(1, -1.0), (2, math.inf)], [(1, 1e-30), (2, 1e30)]]
)
@pytest.mark.parametrize("log", [True, False])
def test_any_values_can_be_drawn(series, log):
    ElementTree.fromstring(svg(Plot(name="p", lines={"training": series}, log=log, zero=not log)))


def test_axes():
    rising = [(step, 10.0**step) for step in range(3)]
    assert {"1", "10", "100"} <= set(texts(svg(Plot(name="p", lines={"a": rising}, log=True))))
    assert "0" in texts(svg(Plot(name="p", lines={"a": [(1, 5.0), (2, 6.0)]}, zero=True)))
    assert "0" not in texts(svg(Plot(name="p", lines={"a": [(1, 5.0), (2, 6.0)]})))


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (2.5e-5, "2.5e-5"), (5e-5, "5e-5"), (12_500, "12.5k"), (100_000, "100k"), (0.0075, "0.0075")],
)
def test_labels_of_axes_are_exact_and_short(value, text):
    assert _label(value) == text


def test_many_points_are_put_together_and_none_is_lost():
    series = [(step, float(step % 7)) for step in range(10 * POINTS + 3)]
    series[1234] = (1234, 99.0)
    steps, means, lows, highs = thinned(series)
    assert len(steps) <= POINTS
    assert max(highs) == 99.0
    assert min(lows) == 0.0
    assert sorted(steps) == steps
    assert all(low <= mean <= high for low, mean, high in zip(lows, means, highs, strict=True))
    few = series[:POINTS]
    assert thinned(few)[1] == [value for _, value in few]


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("page", ["#f6f7f9", "#1c1f25"])
def test_colours_stand_out_on_light_and_on_dark(colour, page):
    light, dark = sorted((luminance(colour), luminance(page)), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 2.7

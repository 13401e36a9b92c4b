"""A benchmark part that counts how often it was measured."""

from pathlib import Path

from benchmarks.scaling.part import Part, Point, Table


def measure(file, fails):
    with Path(file).open("a") as asked:
        asked.write("x")
    if fails:
        raise RuntimeError("as told")
    return {"asked": len(Path(file).read_text())}


def part(**points):
    return Part(
        name="counted",
        about="",
        points=lambda rounds: {name: Point(arguments=arguments) for name, arguments in points.items()},
        measure=measure,
        table=lambda rows: Table(("", "asked"), [[name, str(values["asked"])] for name, values in rows.items()]),
        draw=lambda figure, rows: figure.subplots(),
    )


PART = part()

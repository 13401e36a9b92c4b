"""The parameter tables that presets must have, a text file each. `python -m tests.models.golden_tables`, at the root, writes them anew."""

from pathlib import Path

from t2t.models import preset, presets, table_text

FOLDER = Path(__file__).parent / "golden"


def file_name(name: str) -> str:
    """Return the file of a preset: colons are not for file names."""
    return name.replace(":", "-") + ".txt"


def main() -> None:
    """Write every table."""
    FOLDER.mkdir(exist_ok=True)
    for path in FOLDER.glob("*.txt"):
        path.unlink()
    for name in presets():
        (FOLDER / file_name(name)).write_text(table_text(preset(name)), encoding="utf-8")


if __name__ == "__main__":
    main()

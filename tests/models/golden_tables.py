"""Expected parameter tables of presets, one text file each. To update them, run `python -m tests.models.golden_tables` in the repository root."""

from pathlib import Path

from t2t.models import preset, presets, table_text

FOLDER = Path(__file__).parent / "golden"


def file_name(name: str) -> str:
    """Return the file name of a preset, without colons."""
    return name.replace(":", "-") + ".txt"


def main() -> None:
    """Write all tables."""
    FOLDER.mkdir(exist_ok=True)
    for path in FOLDER.glob("*.txt"):
        path.unlink()
    for name in presets():
        (FOLDER / file_name(name)).write_text(table_text(preset(name)), encoding="utf-8")


if __name__ == "__main__":
    main()

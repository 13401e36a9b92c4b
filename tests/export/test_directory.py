"""Where an export goes: what cannot be written to is told in one line, and nothing is left behind."""

import pytest

from t2t.errors import UserError
from t2t.export.directory import check, writing
from t2t.launch.export import export


def refused(out, message, *, overwrite=False):
    before = sorted(out.parent.iterdir())
    with pytest.raises(UserError, match=message) as caught, writing(out, overwrite=overwrite):
        pass
    said = str(caught.value)
    assert "(--out)" in said
    assert "\n" not in said
    assert len(said) < 400
    assert sorted(out.parent.iterdir()) == before


def test_links_in_a_circle_and_to_nowhere(tmp_path):
    loop, lost = tmp_path / "loop", tmp_path / "lost"
    loop.symlink_to(loop)
    lost.symlink_to(tmp_path / "nowhere")
    refused(loop, "its links form a loop")
    refused(lost, "is a link to .*nowhere, which does not exist")


def test_a_link_to_a_directory_is_written_through(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with writing(tmp_path / "link", overwrite=False) as draft:
        (draft / "file").write_text("made")
    assert (tmp_path / "real" / "file").read_text() == "made"


@pytest.mark.parametrize("name", ["n" * 300, "a/" * 3000 + "b", "ä" * 200])
def test_names_that_are_too_long(name, tmp_path):
    with pytest.raises(UserError, match=r"\(--out\).* (contains a name of \d+ bytes|has \d+ bytes)") as caught:
        check(tmp_path / name, overwrite=False)
    assert len(str(caught.value)) < 400


def test_a_name_that_is_just_short_enough(tmp_path):
    with writing(tmp_path / ("n" * 255), overwrite=False) as draft:
        (draft / "file").write_text("made")
    assert (tmp_path / ("n" * 255) / "file").is_file()


def test_a_directory_where_a_file_is_to_go(tmp_path):
    out = tmp_path / "out"
    (out / "config.json").mkdir(parents=True)

    def write():
        with writing(out, overwrite=True) as draft:
            (draft / "config.json").write_text("{}")
            (draft / "other").write_text("{}")

    with pytest.raises(UserError, match=r"config.json \(--out\) is a directory"):
        write()
    assert [path.name for path in out.iterdir()] == ["config.json"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("format", "options", "message"),
    [
        ("huggingface", {"shard_bytes": -1}, "--shard-bytes -1 is less than 1. Nearest: 1."),
        ("huggingface", {"shard_bytes": 0}, "--shard-bytes 0 is less than 1"),
        (
            "huggingface",
            {"dtype": "float8"},
            r"unknown dtype 'float8' \(--dtype\)\. There are: float32, bfloat16, float16\. Nearest: float32",
        ),
        ("huggingface", {"length": 5}, "--length is for --format stablehlo"),
        ("huggingface", {"platforms": ("cpu",)}, "--platforms is for --format stablehlo"),
        (
            "safetensors",
            {"dtype": "bfloat16"},
            "--dtype is for --format huggingface, sentence-transformers or gguf; it has no effect",
        ),
        ("stablehlo", {"shard_bytes": 10}, "--shard-bytes is for --format huggingface"),
        ("stablehlo", {"platforms": ()}, "--platforms is empty"),
    ],
)
def test_options_that_cannot_be_are_told_before_a_run_is_read(format, options, message, tmp_path):
    with pytest.raises(UserError, match=message):
        export(str(tmp_path / "no run"), format=format, out=str(tmp_path / "out"), **options)


def test_folders_are_merged_and_never_replaced_by_files(tmp_path):
    out = tmp_path / "out"
    for text in ("first", "second"):
        with writing(out, overwrite=True) as draft:
            (draft / "folder").mkdir()
            (draft / "folder" / text).write_text(text)
            (draft / "folder" / "same").write_text(text)
    assert {path.name: path.read_text() for path in (out / "folder").iterdir()} == {
        "first": "first",
        "second": "second",
        "same": "second",
    }

    def write():
        with writing(out, overwrite=True) as draft:
            (draft / "folder" / "same").mkdir(parents=True)

    with pytest.raises(UserError, match=r"folder/same \(--out\) is a file, and cannot be replaced by a directory"):
        write()

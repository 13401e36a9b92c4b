import os
import socket

import pytest

from t2t.errors import UserError
from t2t.stored_paths import check_links, hub_cache, stored_path


@pytest.fixture
def place(tmp_path):
    """inside/ with a file, a folder and links; outside/ beside it."""
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    (inside / "folder").mkdir(parents=True)
    outside.mkdir()
    (inside / "file").write_text("ours")
    (outside / "secret").write_text("private key")
    (inside / "link").symlink_to("file")
    (inside / "out").symlink_to(outside / "secret")
    (inside / "chain").symlink_to("out")
    (inside / "elsewhere").symlink_to(outside)
    (inside / "loop").symlink_to("loop")
    (inside / "dangling").symlink_to(outside / "not-there")
    os.mkfifo(inside / "pipe")
    return inside


@pytest.mark.parametrize(
    "name", ["file", "folder", "folder/../file"[:6], "link", "new", "folder/new", "./file", "ünï côdé"]
)
def test_what_is_inside_is_given(place, name):
    assert stored_path(place, name, where="index.json") == place / name


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "../outside/secret", "folder/../../outside/secret", "/etc/passwd", "//etc/passwd"),
        *(
            "C:\\x",
            "C:x",
            "..\\x",
            "a\\b",
            "file\0",
            "file\nerror: x",
            "\x1b[2J",
            "gs://bucket/x",
            "file:///etc/passwd",
        ),
        *("out", "chain", "elsewhere/secret", "elsewhere/new", "dangling", "loop", "loop/x", "pipe", "x" * 5000),
        *(5, None, True, ["file"], {"a": 1}, 1.5),
    ],
)
def test_everything_else_is_refused_in_one_line_that_names_the_file(place, name):
    with pytest.raises(UserError, match=r"^index\.json: ") as told:
        stored_path(place, name, where="index.json")
    assert "\n" not in str(told.value)
    assert "\x1b" not in str(told.value)
    assert len(str(told.value)) < 600


def test_a_directory_that_is_a_link_itself_is_the_users_own_choice(place, tmp_path):
    (tmp_path / "alias").symlink_to(place)
    assert stored_path(tmp_path / "alias", "link", where="x").read_text() == "ours"


def cached(tmp_path, target):
    """A model as the Hugging Face cache has it, one file of which leads to `target`."""
    repository = tmp_path / "models--owner--name"
    snapshot = repository / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    (repository / "blobs" / "abc").write_text("weights")
    (tmp_path / "secret").write_text("private key")
    (snapshot / "config.json").symlink_to(target)
    return snapshot


def test_links_of_the_hub_cache_lead_to_its_blobs(tmp_path):
    snapshot = cached(tmp_path, "../../blobs/abc")
    check_links(snapshot, [".json"])
    assert hub_cache(snapshot) == (tmp_path.resolve() / "models--owner--name" / "blobs",)


def test_and_nowhere_else(tmp_path):
    snapshot = cached(tmp_path, "../../../secret")
    with pytest.raises(UserError, match=r"config\.json' points outside"):
        check_links(snapshot, [".json"])
    check_links(snapshot, [".txt"])  # what is not read may be anything


def test_blobs_that_are_a_link_are_no_cache(tmp_path):
    snapshot = cached(tmp_path, "../../blobs/secret")
    blobs = tmp_path / "models--owner--name" / "blobs"
    (blobs / "abc").unlink()
    blobs.rmdir()
    blobs.symlink_to(tmp_path)
    assert (snapshot / "config.json").read_text() == "private key"
    with pytest.raises(UserError, match="points outside"):
        check_links(snapshot, [".json"])


def test_a_link_within_the_blobs_to_elsewhere_is_followed_to_its_end(tmp_path):
    snapshot = cached(tmp_path, "../../blobs/evil")
    (tmp_path / "models--owner--name" / "blobs" / "evil").symlink_to(tmp_path / "secret")
    with pytest.raises(UserError, match="points outside"):
        check_links(snapshot, [".json"])


def test_a_socket_is_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # names of sockets must be short
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("s")
        with pytest.raises(UserError, match="neither a file nor a directory"):
            stored_path(tmp_path, "s", where="x")

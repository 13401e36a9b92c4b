"""A cache's manifest that is damaged, or made by somebody: one line, and no file outside of the cache is read."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from t2t.data.cached import manifest as manifests
from t2t.data.cached.manifest import MANIFEST, PLAN, Field, Manifest, Shard
from t2t.errors import UserError
from tests.damage import NOTHING, changed_bytes, changed_json, told


@pytest.fixture
def cache(tmp_path):
    """A cache with a shard; the directory above has a secret."""
    directory = tmp_path / "task"
    directory.mkdir()
    (tmp_path / "secret").write_bytes(b"private key")
    (directory / "a.array_record").write_bytes(b"abc")
    shard = Shard(
        file="a.array_record",
        examples=1,
        tokens=2,
        every=1,
        size=3,
        sha256=manifests.checksum(directory / "a.array_record"),
    )
    made = Manifest(
        task="task",
        source="s",
        steps=("one",),
        vocabularies={"inputs": "v"},
        fields={"inputs": Field(dtype="int32", rank=1)},
        sharding={"train": 1},
        splits={"train": (shard,)},
    )
    manifests.write(directory, MANIFEST, made)
    return directory


def test_it_is_read_and_verified(cache):
    assert manifests.verify(cache.parent, "task").splits["train"][0].file == "a.array_record"


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "link", "..", "a\\b"])
def test_a_shard_outside_of_the_cache_is_refused(cache, name):
    (cache / "link").symlink_to(cache.parent / "secret")
    changed = json.loads((cache / MANIFEST).read_text())
    changed["splits"]["train"][0]["file"] = name
    (cache / MANIFEST).write_text(json.dumps(changed))
    with pytest.raises(UserError, match=rf"task/{MANIFEST}: "):
        manifests.load(cache)


@pytest.mark.parametrize("content", [*NOTHING, b'{"class": "t2t.data.cached.manifest.Field", "dtype": "a", "rank": 1}'])
@pytest.mark.parametrize("name", [MANIFEST, PLAN])
def test_a_file_that_is_none_is_named(cache, name, content):
    (cache / MANIFEST).unlink()
    (cache / name).write_bytes(content)
    with pytest.raises(UserError, match=name) as error:
        manifests.load(cache)
    assert "\n" not in str(error.value)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_whatever_it_holds_it_is_read_or_refused_in_one_line(cache, data):
    path = cache / MANIFEST
    whole = path.read_bytes()
    try:
        path.write_bytes(data.draw(st.one_of(changed_json(json.loads(whole)), changed_bytes(whole))))
        told(lambda: manifests.verify(cache.parent, "task"))
    finally:
        path.write_bytes(whole)

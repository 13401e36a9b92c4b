"""A Parquet file with a page that cannot be unpacked: the rows are named, or left out and counted."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from t2t.errors import UserError
from t2t.tasks import sources


@pytest.fixture
def damaged(tmp_path):
    """A file of two groups of two rows, the first of which is damaged."""
    path = tmp_path / "d.parquet"
    pq.write_table(pa.table({"text": ["a", "b", "c", "d"], "label": ["e", "f", "g", "h"]}), path, row_group_size=2)
    content = bytearray(path.read_bytes())
    for index in (10, 20, 30):
        content[index] ^= 255
    path.write_bytes(content)
    return path


def test_it_is_one_line_that_names_the_rows(damaged):
    source = sources.parquet(str(damaged))
    with pytest.raises(
        UserError, match=r"d\.parquet: rows 1 to 2, field 'text', cannot be read: .*on_bad='skip'"
    ) as error:
        source.num_input_examples("train")
    assert "\n" not in str(error.value)


def test_skipped_they_are_counted(damaged):
    assert sources.parquet(str(damaged), on_bad="skip").num_input_examples("train") == 2

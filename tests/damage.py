"""What to do to a file, and what may come of reading it."""

from collections.abc import Callable
from typing import Any

from t2t.errors import Failure, UserError


def told(read: Callable[[], Any]) -> str:
    """Return the one line that a read ends in, or nothing where it ends well. Any other exception is one."""
    try:
        read()
    except (UserError, Failure) as error:
        line = str(error)
    else:
        return ""
    assert line.strip()
    assert "\n" not in line, line
    return line

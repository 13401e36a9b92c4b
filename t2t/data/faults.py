"""What TensorFlow wraps, unwrapped: a UserError raised inside a data pipeline is again a UserError with its one line."""

from __future__ import annotations

import re

from t2t.errors import UserError

_RAISED = re.compile(r"UserError: ([^\n]+)")


def surfaced(error: BaseException) -> BaseException:
    """Return the UserError that `error` carries in its text, else `error` itself.

    tf.data turns an exception of a Python function into an `InvalidArgumentError` whose text is the traceback, and
    AutoGraph puts the user's frames before the message; both keep the line "...UserError: message".
    """
    if isinstance(error, UserError) and "\n" not in str(error):
        return error
    found = _RAISED.search(str(error))
    return UserError(found[1].strip()) if found else error

"""Unwrap errors of tf.data: a UserError raised inside a data pipeline becomes a UserError with its one line again."""

from __future__ import annotations

import re

from t2t.errors import UserError

_RAISED = re.compile(r"UserError: ([^\n]+)")


def surfaced(error: BaseException) -> BaseException:
    """Return the UserError found in the text of `error`, or `error` itself if there is none.

    tf.data turns an exception of a Python function into an `InvalidArgumentError` whose text is the traceback.
    AutoGraph puts the user's frames before the message. Both keep the line "...UserError: message".
    """
    if isinstance(error, UserError) and "\n" not in str(error):
        return error
    found = _RAISED.search(str(error))
    return UserError(found[1].strip()) if found else error

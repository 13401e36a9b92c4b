"""Which failures are told in one line."""

from __future__ import annotations

import errno
import os

import jax
import pytest

from t2t.errors import Failure, in_one_line, is_out_of_memory, of_the_machine

XLA = "INTERNAL: Error dispatching computation: Out of memory allocating 536870912 bytes."


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (MemoryError(), "out of memory"),
        (jax.errors.JaxRuntimeError(XLA), "out of memory (while allocating 0.5 GB)"),
        (jax.errors.JaxRuntimeError("INTERNAL: std::bad_alloc"), "out of memory"),
        (RuntimeError("can't start new thread"), "out of memory"),
        (ImportError("a.so: failed to map segment from shared object"), "out of memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "Cannot allocate memory"),
        (OSError(errno.ENOSPC, "No space left on device", "/a"), "/a: No space left on device"),
        (
            ValueError("RESOURCE_EXHAUSTED: write: No space left on device"),
            "No space left on device (RESOURCE_EXHAUSTED: write: No space left on device)",
        ),
        (Failure("two\nlines"), "two lines"),
        (jax.errors.JaxRuntimeError("INVALID_ARGUMENT: shapes"), None),
        (RuntimeError("my metric is broken"), None),
        (OSError(errno.ENOENT, "No such file or directory", "/a"), None),
    ],
)
def test_what_the_machine_did_is_one_line_and_a_bug_is_none(error, line):
    assert in_one_line(error) == line


def test_out_of_memory_is_no_full_disk():
    assert is_out_of_memory(jax.errors.JaxRuntimeError(XLA))
    assert not is_out_of_memory(ValueError("RESOURCE_EXHAUSTED: Failed to write: No space left on device"))
    cause = OSError(errno.EROFS, os.strerror(errno.EROFS))
    error = ValueError("a library's words")
    error.__cause__ = cause
    assert of_the_machine(error) == "Read-only file system"
    assert of_the_machine(ValueError("damaged")) is None


def test_an_error_that_is_its_own_cause_is_searched_once():
    error = ValueError("a bug")
    error.__cause__ = error
    assert in_one_line(error) is None

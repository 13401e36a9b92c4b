"""`t2t infer RUN --chat`: the prompts of conversations, and a conversation in the terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from t2t.api.chat import Chat
from t2t.api.escapes import visible
from t2t.api.lengths import Name
from t2t.errors import UserError
from t2t.launch.infer_inputs import user_message

ASKS = "> "
"""What the terminal shows before a message of the user."""


def prompts_of(chat: Chat, rows: Sequence[dict[str, Any]], name: Name) -> list[dict[str, Any]]:
    """Return for each row its prompt ("inputs") and the row itself ("row"). A special token in a message is reported on standard error.

    Raises UserError, which names the row, if its "messages" are not a conversation that the template accepts.
    """
    found = [{"inputs": chat.prompt(row["messages"], name(i)), "row": row} for i, row in enumerate(rows)]
    written = {i: token for i, row in enumerate(rows) if (token := chat.written_by_user(row["messages"]))}
    for i, token in list(written.items())[:1]:
        more = f" (and {len(written) - 1:,} more)" if len(written) > 1 else ""
        print(f"note: {name(i)}{more}: {token} in a message is read as a special token", file=sys.stderr)
    return found


def converse(answer: Callable[[list[dict[str, Any]]], dict[str, Any]]) -> None:
    """Read messages from the terminal and print the answers, with the conversation so far as the context, until the end of the input.

    answer: return the answer to a conversation: "prediction" and "ended". A message that raises UserError is taken back.
    """
    print("Empty line or Ctrl-D: end.", file=sys.stderr)
    messages: list[dict[str, Any]] = []
    while True:
        print(ASKS, end="", flush=True)
        line = sys.stdin.readline()
        if not line.strip():
            break
        messages.append(user_message(line.rstrip("\r\n")))
        try:
            found = answer(messages)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            messages.pop()
            continue
        print(visible(found["prediction"]))
        if not found["ended"]:
            print("note: the answer was cut off; --max-length N allows a longer one", file=sys.stderr)
        messages.append({"role": "assistant", "content": found["prediction"]})

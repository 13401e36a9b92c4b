"""The README.md of an export."""

from __future__ import annotations

from typing import Any

from t2t.nn.model import Kind

_AROUND = {
    "encoder_decoder": "The tokenizer puts the end-of-sequence token behind each text, as the model's inputs have it.",
    "encoder": "The tokenizer puts around each text what the model was trained with.",
    "decoder": (
        "The tokenizer puts {before} a text and nothing behind it: the model goes on with the text.\n"
        "A model that was trained on tasks expects the end-of-sequence token behind a question: `tokenizer({question})`."
    ),
}


def huggingface_readme(kind: Kind, architecture: str, *, needs_sentencepiece: bool, prepends_bos: bool) -> str:
    """Return the text for a directory of `transformers`.

    architecture: the class in config.json. needs_sentencepiece: whether the tokenizer is a spiece.model alone.
    prepends_bos: whether a text by itself begins with the start token.
    """
    needs = "`transformers`, `torch`" + (
        ", and for the tokenizer `sentencepiece` and `protobuf`" if needs_sentencepiece else ""
    )
    before = "the start token before" if prepends_bos else "nothing before"
    question = "text + tokenizer.eos_token" if prepends_bos else "tokenizer.bos_token + text + tokenizer.eos_token"
    return f"""# A model for transformers

Needs {needs}.

```python
from transformers import AutoTokenizer, {architecture}

model = {architecture}.from_pretrained(".")
tokenizer = AutoTokenizer.from_pretrained(".")
```

{_AROUND[kind].format(before=before, question=question)}
"""


def readme(manifest: dict[str, Any]) -> str:
    """Return the text for a manifest."""
    first, *rest = manifest["entries"].items()
    vocabulary = manifest["vocabulary"]
    files = f" Its files: {', '.join(vocabulary['files'])}." if vocabulary["files"] else ""
    return f"""# A model in StableHLO

{manifest["kind"].replace("_", "-")}, {manifest["parameters"]:,} parameters. Runs with JAX alone, on {", ".join(manifest["platforms"])}; needs none of the code that made it.

```python
import jax
from load import load            # load.py lies beside this file

entries = load(".")
out = entries["{first[0]}"]({_example(first[1])})
```

{"".join(_entry(name, entry) for name, entry in [first, *rest])}
Sizes given by name may be any at each call. Token ids are those of the vocabulary in `manifest.json`: {vocabulary["size"]} ids, padding
{vocabulary["pad_id"]}, end {" or ".join(map(str, vocabulary["end_ids"]))}, start {vocabulary["bos_id"]}.{files}

`jax.export` reads programs with the package `flatbuffers`, which JAX does not install; load.py takes the copy in `flatbuffers.zip` where there is none.
Without load.py, and with the packages `safetensors` and `flatbuffers`:

```python
import jax, jax.export
from safetensors.flax import load_file       # or safetensors.numpy
program = jax.export.deserialize(bytearray(open("{first[1]["file"]}", "rb").read()))
weights = load_file("{manifest["weights"]}")
out = program.call(weights, {_example(first[1])})
```

The programs are `jax.export` artifacts made with JAX {manifest["jax"]}; JAX promises to read them for six months after that version's release, and in
practice longer. The weights and `manifest.json` have no such limit.
"""


def _example(entry: dict[str, Any]) -> str:
    parts = [f'"{name}": {_zeros(value["shape"])}' for name, value in entry["inputs"].items()]
    return "{" + ", ".join(parts) + "}"


def _zeros(shape: list[str | int]) -> str:
    sizes = ", ".join(str(size) if isinstance(size, int) else "1" if size == "batch" else "5" for size in shape)
    return f'jax.numpy.ones(({sizes},), "int32")'


def _entry(name: str, entry: dict[str, Any]) -> str:
    inputs = "".join(
        f"  - `{key}` int32 {_shape(value['shape'])}: {value['about']}\n" for key, value in entry["inputs"].items()
    )
    outputs = "".join(f"  - returns `{key}`: {value}\n" for key, value in entry["outputs"].items())
    limits = "".join(f"  - `{key}` is at most {value}\n" for key, value in entry["at_most"].items())
    return f"- **{name}** (`{entry['file']}`): {entry['about']}\n{inputs}{outputs}{limits}"


def _shape(shape: list[str | int]) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"

"""The README.md of an export."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from t2t.nn.model import Kind

_AROUND = {
    "encoder_decoder": "The tokenizer appends the end-of-sequence token to each text, as in training.",
    "encoder": "The tokenizer adds the special tokens of training to each text.",
    "decoder": (
        "The tokenizer {before} and does not append the end-of-sequence token, so the model continues the text.\n"
        "A model trained on tasks expects the end-of-sequence token after the input: `tokenizer({question})`."
    ),
}

SENTENCE_README = """
With `sentence-transformers`:

```python
from sentence_transformers import SentenceTransformer

vectors = SentenceTransformer(".").encode(["a text"])
```
"""
"""What the README of a sentence encoder adds."""


def huggingface_readme(
    kind: Kind,
    architecture: str,
    *,
    needs_sentencepiece: bool,
    prepends_bos: bool,
    auto_map: Mapping[str, str] | None = None,
) -> str:
    """Return the README of a `transformers` directory.

    architecture:        the model class in config.json.
    needs_sentencepiece: whether spiece.model or spm.model is the only tokenizer file.
    prepends_bos:        whether the tokenizer prepends the start token.
    auto_map:            automatic class -> "REPOSITORY--MODULE.CLASS", for a model that `transformers` does not have itself.
    """
    needs = "`transformers` and `torch`" + (
        ", and `sentencepiece` and `protobuf` for the tokenizer" if needs_sentencepiece else ""
    )
    before = "prepends the start token to a text" if prepends_bos else "does not prepend a start token to a text"
    question = "text + tokenizer.eos_token" if prepends_bos else "tokenizer.bos_token + text + tokenizer.eos_token"
    loader, trusted, about = architecture, "", ""
    if auto_map is not None:
        loader, code = next((auto, code) for auto, code in auto_map.items() if code.endswith(f".{architecture}"))
        trusted = ", trust_remote_code=True"
        about = f"`transformers` does not have {architecture}: it downloads and runs the code of {code.partition('--')[0]} from the Hugging Face Hub.\n"
    return f"""# A model for transformers

Needs {needs}.
{about}
```python
from transformers import AutoTokenizer, {loader}

model = {loader}.from_pretrained("."{trusted})
tokenizer = AutoTokenizer.from_pretrained(".")
```

{_AROUND[kind].format(before=before, question=question)}
"""


def readme(manifest: dict[str, Any]) -> str:
    """Return the README of a StableHLO export."""
    first, *rest = manifest["entries"].items()
    vocabulary = manifest["vocabulary"]
    files = f" Its files: {', '.join(vocabulary['files'])}." if vocabulary["files"] else ""
    return f"""# A model in StableHLO

{manifest["kind"].replace("_", "-")}, {manifest["parameters"]:,} parameters.
It needs only JAX, and runs on {", ".join(manifest["platforms"])}. It does not need the code that exported it.

```python
import jax
from load import load            # load.py is in this directory

entries = load(".")
out = entries["{first[0]}"]({_example(first[1])})
```

{"".join(_entry(name, entry) for name, entry in [first, *rest])}
Named sizes may differ from call to call. `manifest.json` describes the vocabulary of the token ids: {vocabulary["size"]} ids, padding
{vocabulary["pad_id"]}, end {" or ".join(map(str, vocabulary["end_ids"]))}, start {vocabulary["bos_id"]}.{files}

`jax.export` needs the package `flatbuffers`, which JAX does not install. If it is missing, load.py uses the copy in `flatbuffers.zip`.
To load the model without load.py, install the packages `safetensors` and `flatbuffers`:

```python
import jax, jax.export
from safetensors.flax import load_file       # or safetensors.numpy
program = jax.export.deserialize(bytearray(open("{first[1]["file"]}", "rb").read()))
weights = load_file("{manifest["weights"]}")
out = program.call(weights, {_example(first[1])})
```

The programs are `jax.export` artifacts of JAX {manifest["jax"]}. JAX guarantees that later versions can read them for six months after the
release of that version; in practice it is longer. The weights and `manifest.json` have no such limit.
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

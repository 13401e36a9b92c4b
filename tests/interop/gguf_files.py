"""Compare our GGUF files with the reader of `transformers`: the ids of difficult texts, and logits.

    python -m tests.interop.gguf_files [DIRECTORY ...]

Run it in the root of the repository. It needs `gguf` and `transformers`.
A DIRECTORY has the tokenizer.json and tokenizer_config.json of a published tokenizer of Llama 2, Llama 3, Qwen or Gemma.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import gguf
import jax
import numpy as np
import torch
import transformers

from t2t.export.gguf import gguf_directory
from t2t.export.gguf_tokenizer import write_tokenizer
from t2t.export.gguf_tokenizer_writing import add_tokenizer
from t2t.export.gguf_writing import write_gguf
from t2t.export.huggingface import opened
from t2t.export.token_check import TEXTS, difference, marked
from t2t.export.tokenizer_files import read_vocabulary
from t2t.models import llama
from t2t.models.families import exportable, family_of
from t2t.models.gemma.presets import gemma2, gemma3
from t2t.nn.model import ParamSpec
from t2t.nn.rotary import Rotary
from t2t.sharding import MeshConfig
from t2t.types import Batch
from t2t.vocabularies import Tokenizer
from t2t.vocabularies.library import added
from tests.interop.ours import tokens
from tests.test_tokenizer import byte_level

SIZES = {"num_layers": 7, "d_model": 128, "num_heads": 2, "num_kv_heads": 1, "d_ff": 192, "vocab_size": 320, "max_length": 4096}  # fmt: skip
MODELS = {
    "llama": lambda: llama.llama(**SIZES, tied=False),
    "qwen2": lambda: llama.llama(**SIZES, tied=True, attention_biases=True, attention_output_bias=False),
    # The reader does not read the size of a head: it takes that of the published models.
    "qwen3": lambda: llama.llama(**SIZES, head_dim=128, qk_norm=True),
    "gemma2": lambda: gemma2(**SIZES, head_dim=256, window=8),
    "gemma3": lambda: gemma3(**SIZES, head_dim=256, window=8),
}
LLAMA3 = Rotary(base=500_000.0, scaling="llama3", factor=32.0)


def main() -> int:
    """Print the results. Return 1 if ids or logits differ."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    good = True
    with tempfile.TemporaryDirectory(prefix="t2t-gguf-") as folder:
        print("| model | logits from our import | from transformers | by at most |\n| --- | --- | --- | --- |")
        for name, make in MODELS.items():
            good = _same_logits(name, make(), Path(folder) / name) and good
        print("\n| tokenizer | kind | texts | our import | transformers |\n| --- | --- | --- | --- | --- |")
        for number, directory in enumerate(map(Path, sys.argv[1:])):
            good = _same_ids(directory, Path(folder) / str(number)) and good
    return 0 if good else 1


def _same_logits(name: str, config: Any, place: Path) -> bool:
    """Write a model with random parameters, and compare the logits of both readers."""
    place.mkdir()
    byte_level(place / "tokenizer.json")
    vocabulary = Tokenizer(path=str(place / "tokenizer.json"), eos="<|endoftext|>")
    _, options, wanted = exportable(config)
    random = np.random.default_rng(0)
    params = jax.tree.map(
        lambda spec: (random.normal(size=spec.shape) * 0.1 + (0.0 if spec.decay else 1.0)).astype(np.float32),
        config.build().specs,
        is_leaf=lambda leaf: isinstance(leaf, ParamSpec),
    )
    write_gguf(place / "model.gguf", params, options, wanted, vocabulary, dtype="f16", name=name)
    (place / "back").mkdir()
    gguf_directory(place / "model.gguf", place / "back")
    ids = random.integers(0, 300, (2, 40))
    given = Batch(encoder=None, decoder=tokens(ids), targets=ids, weights=np.ones(ids.shape, np.float32))
    with opened(place / "back", family_of) as source:
        ours = np.asarray(source.model.logits(source.params(MeshConfig().build()), given))
    model = transformers.AutoModelForCausalLM.from_pretrained(place, gguf_file="model.gguf", dtype=torch.float32).eval()
    with torch.no_grad():
        theirs = model(torch.tensor(ids)).logits.numpy()
    worst = float(np.abs(ours - theirs).max())
    print(f"| {name} | {np.abs(ours).max():.3f} | {np.abs(theirs).max():.3f} | {worst:.1e} |", flush=True)
    return worst < 1e-3


def _same_ids(directory: Path, place: Path) -> bool:
    """Write a published tokenizer to a GGUF file, and compare the ids of both readers with its own."""
    place.mkdir()
    vocabulary = read_vocabulary(directory, {}, scratch=place)
    file = place / "model.gguf"
    writer = gguf.GGUFWriter(str(file), "llama")
    add_tokenizer(writer, vocabulary, vocabulary.size)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    fields = {name: field.contents() for name, field in gguf.GGUFReader(file).fields.items()}
    (place / "back").mkdir()
    write_tokenizer(fields, place / "back", str(file))
    back = read_vocabulary(place / "back", {}, scratch=place / "back")
    texts = [*TEXTS, *marked(list(added(vocabulary.library()))[:40])]  # type: ignore[attr-defined]
    theirs = transformers.AutoTokenizer.from_pretrained(place, gguf_file="model.gguf")

    def shown(other: Any) -> str:
        wrong = [text for text in texts if difference(vocabulary.encode, other, [text])]
        return f"{len(wrong)} differ, e.g. {wrong[0]!r:.40}" if wrong else "equal"

    ours = shown(back.encode)
    kind = f"{fields['tokenizer.ggml.model']}, {fields['tokenizer.ggml.pre']}"
    other = shown(lambda text: theirs(text, add_special_tokens=False)["input_ids"])
    print(f"| {directory.name} | {kind} | {len(texts)} | {ours} | {other} |", flush=True)
    return ours == "equal"


if __name__ == "__main__":
    sys.exit(main())

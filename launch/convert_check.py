"""`t2t convert-check`: find the first layer at which an imported model differs from `transformers`."""

from __future__ import annotations

import dataclasses
import itertools
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro

from t2t.errors import UserError
from t2t.installing import how_to_install
from t2t.limits import Range
from t2t.nn.capabilities import OF_TEXT
from t2t.paths import LocalPath

if TYPE_CHECKING:
    from t2t.export.huggingface import Source
    from t2t.models.config import LayerOptions, StackConfig
    from t2t.nn.model import Capability
    from t2t.types import Batch, Params

Rows = list[tuple[str, np.ndarray]]
"""Outputs of a model, in order: (name, values [B L D])."""


def convert_check(
    source: Annotated[LocalPath, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")],
    *,
    accept_option: Annotated[tuple[tuple[str, ...], ...], tyro.conf.UseAppendAction] = (),
    tolerance: Annotated[float, Range(0.0, 1e6)] = 1e-4,
) -> int:
    """Compare the import of a directory with transformers: embeddings, each layer and the logits, on a short input in float32.

    Needs torch and transformers. The exit code is 1 if a difference exceeds the tolerance.

    Args:
        source: the directory with config.json.
        accept_option: options of config.json to ignore although t2t does not know them, one or several. Can be repeated.
        tolerance: maximum difference, relative to the largest value or to 1, whichever is greater.

    Raises:
        UserError: the directory is not found, the model is not supported, or transformers is not installed.
    """
    from t2t.export.huggingface import opened
    from t2t.models.families import family_of
    from t2t.sharding import MeshConfig

    try:
        import torch
        import transformers
    except ImportError as error:
        raise UserError(
            f"t2t convert-check compares with transformers, but {error.name} is not installed: {how_to_install('interop')}"
        ) from None
    transformers.logging.set_verbosity_error()
    with opened(source, family_of, accepted=tuple(itertools.chain(*accept_option))) as model:
        if not any(name in transformers.CONFIG_MAPPING for name in model.family.model_types):
            raise UserError(
                f"{source}: transformers {transformers.__version__} has no {model.family.name} to compare with, and the code in a directory is not run"
            )
        params = model.params(MeshConfig().build())
        ours, theirs = our_layers(model, params), their_layers(model, torch, transformers)
    wrong = None
    print(f"{'':24} {'largest difference':>18} {'largest value':>14}")
    for (name, value), (_, reference) in zip(ours, theirs, strict=True):
        difference, size = float(np.abs(value - reference).max()), float(np.abs(reference).max())
        bad = not difference <= tolerance * max(size, 1.0)
        if bad and wrong is None:
            wrong = name
        print(f"{name:24} {difference:18.2e} {size:14.3f}{'  differs' if bad else ''}")
    print("all equal" if wrong is None else f"the first difference is in {wrong}")
    return 0 if wrong is None else 1


def our_layers(source: Source, params: Params) -> Rows:
    """Return the outputs of our model on the short input, layer by layer."""
    import jax

    from t2t.export.huggingface import short_batch

    batch = jax.tree.map(jax.numpy.asarray, short_batch(source.config))
    rows: Rows = []
    for side in source.config.sides:
        stack, tokens = getattr(source.config, side), getattr(batch, side)
        rows.append((f"{side} embeddings", np.asarray(source.model.embedded(params, tokens, side))))  # type: ignore[attr-defined]
        for count in range(1, stack.num_layers + 1):
            config, shorter = cut(source.config, params, side, count)
            network = config.build()
            hidden = network.encoded if side != source.config.sides[-1] else network.hidden
            rows.append((f"{side} layer {count}", np.asarray(jax.jit(hidden)(shorter, batch))))
    if headed(source):
        rows.append(("logits", our_logits(source, params, batch)))
    return rows


def our_logits(source: Source, params: Params, batch: Batch) -> np.ndarray:
    """Return the head's logits in the shape of transformers: for labels and numbers at the first token only, for spans two per token."""
    import jax

    model = source.model
    if source.config.can("find_span"):
        return np.asarray(jax.jit(lambda params, batch: model.head(params, model.hidden(params, batch)))(params, batch))
    scores = np.asarray(jax.jit(model.logits)(params, batch))
    return scores[:, 0] if source.config.output in OF_TEXT else scores


def headed(source: Source) -> bool:
    """Return whether the directory has the model's head, not only the base model."""
    from t2t.models.encoder import EncoderConfig

    config = source.config
    if not isinstance(config, EncoderConfig):
        return True
    return config.head_transform if config.can("fill_mask") else config.output != "vectors"


def cut(config: Any, params: Params, side: str, count: int) -> tuple[Any, Params]:
    """Return the model with the first `count` layers of one stack. The final norm stays only if these are all layers."""
    import jax

    stack = getattr(config, side)
    whole = count == stack.num_layers
    kept = {name: value for name, value in params[side].items() if name not in ("layers", "first", "tail")}
    if not whole:
        kept.pop("final_norm", None)
    if stack.first or len(stack.places) > 1:
        # The last layer is the new pattern, and all others come first.
        options, layers = separate(stack, params[side])
        changes = {"first": tuple(options[: count - 1]), "pattern": (options[count - 1],)}
        if count > 1:
            kept["first"] = {str(place): layer for place, layer in enumerate(layers[: count - 1])}
        kept["layers"] = jax.tree.map(lambda leaf: leaf[None], layers[count - 1])
    else:
        changes, repeats = {}, stack.num_layers // stack.blocks
        kept["layers"] = jax.tree.map(lambda leaf: leaf.repeat(repeats, axis=0)[:count], params[side]["layers"])
    shorter = dataclasses.replace(
        stack, num_layers=count, groups=None, moe_every=1, final_norm=stack.final_norm and whole, **changes
    )
    return dataclasses.replace(config, **{side: shorter}), {**params, side: kept}


def separate(stack: StackConfig, params: Params) -> tuple[list[LayerOptions], list[Params]]:
    """Return the options and the parameters of each layer of a stack, in order."""
    import jax

    before, pattern = len(stack.first), stack.places
    rest = stack.num_layers - before
    pattern = pattern[:rest]
    options, layers = list(stack.first), [params["first"][str(place)] for place in range(before)]
    for depth in range(rest):
        repeat, place = divmod(depth, len(pattern))
        options.append(pattern[place])
        if repeat == rest // len(pattern):
            layers.append(params["tail"][str(place)])
        else:
            stacked = params["layers"] if len(pattern) == 1 else params["layers"][str(place)]
            layers.append(jax.tree.map(lambda leaf, index=repeat: leaf[index], stacked))
    return options, layers


_THEIRS: dict[Capability, str] = {
    "classify": "AutoModelForSequenceClassification",
    "regress": "AutoModelForSequenceClassification",
    "tag": "AutoModelForTokenClassification",
    "find_span": "AutoModelForQuestionAnswering",
    "fill_mask": "AutoModelForMaskedLM",
    "continue_text": "AutoModelForCausalLM",
    "generate": "AutoModelForSeq2SeqLM",
}
"""Capability of a model -> class of `transformers`. The first match is used."""


def their_layers(source: Source, torch: Any, transformers: Any) -> Rows:
    """Return the outputs of `transformers` on the short input, layer by layer."""
    from t2t.export.huggingface import short_batch
    from t2t.models.bert.heads import PAIR_LABELS

    directory, sides = source.files.directory, source.config.sides
    detector = getattr(source.config, "reference_label", False)
    auto = next((name for able, name in _THEIRS.items() if source.config.can(able)), "AutoModel")
    auto = "AutoModelForPreTraining" if detector else auto
    auto = "AutoModelForNextSentencePrediction" if source.config.labels == PAIR_LABELS else auto
    loader = getattr(transformers, auto if headed(source) else "AutoModel")
    # Code and pickles in the directory are not run.
    safe = {"trust_remote_code": False, "use_safetensors": True, "local_files_only": True}
    model = loader.from_pretrained(directory, dtype=torch.float32, **safe).eval()
    batch = short_batch(source.config)
    arguments = {"output_hidden_states": True}
    if batch.encoder is not None:
        arguments["input_ids"] = torch.tensor(np.asarray(batch.encoder.ids), dtype=torch.long)
    if batch.decoder is not None:
        name = "decoder_input_ids" if batch.encoder is not None else "input_ids"
        arguments[name] = torch.tensor(np.asarray(batch.decoder.ids), dtype=torch.long)
    with torch.no_grad():
        out = model(**arguments)
    rows: Rows = []
    for side in sides:
        states = getattr(out, f"{side}_hidden_states" if len(sides) == 2 else "hidden_states")
        names = [f"{side} embeddings", *(f"{side} layer {i}" for i in range(1, len(states)))]
        rows += [(name, state.float().numpy()) for name, state in zip(names, states, strict=True)]
    if headed(source):
        logits = torch.stack([out.start_logits, out.end_logits], -1) if source.config.can("find_span") else out.logits
        logits = torch.stack([torch.zeros_like(logits), logits], -1) if detector else logits
        rows.append(("logits", logits.float().numpy()))
    return rows

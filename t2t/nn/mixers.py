"""The interface of mixers, the layers that mix positions: for training, for consuming a prompt and for decoding a token at a time.

A mixer is one module and its configuration. Stacks, models and decoding use this interface alone; attention is one implementation of it
(`t2t.nn.attention.layer`).
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from flax import nnx
from jaxtyping import Array, Float, Int

from t2t.errors import UserError
from t2t.limits import Configuration
from t2t.nn.aux import Aux
from t2t.nn.dropout import Keys
from t2t.nn.initializers import Initializer
from t2t.nn.quantized import Quantization
from t2t.nn.state import State
from t2t.types import Array as AnyArray


@dataclass(frozen=True, kw_only=True)
class Context:
    """What every layer of a stack may know of the tokens in one pass.

    segments:  number of each token's example in its row, 0 for padding. Only tokens of one segment may mix.
    positions: of the tokens, each in its own example; None where nothing reads them.
    prefix:    1 for tokens of a prefix that every token of its segment may see, later ones too; None for no such prefix. In a step, of the prompt's tokens.
    bidirectional: tokens also see those after them, as in an encoder.
    memory:    the encoder's output, for cross attention, or None.
    memory_segments: segments of the encoder's tokens.
    index:     in a step, each row's place in its state; None in a pass over whole rows.
    room:      in a step, a 1 for each place that states have room for.
    prompt:    in a step of hypotheses on one prompt, 1 for each token of that prompt and 0 for padding, a row for each hypothesis; None where each
               row's state has its own prompt.
    keys:      of dropout.
    inputs:    what the mixer's `prepare` made of all this.
    cross_inputs: the same of cross attention.
    """

    segments: Int[AnyArray, "B L"]
    positions: Int[Array, "B L"] | None = None
    prefix: Int[AnyArray, "B L"] | None = None
    bidirectional: bool = False
    memory: Float[Array, "B k M"] | None = None
    memory_segments: Int[AnyArray, "B k"] | None = None
    index: Int[Array, "B"] | None = None
    room: Int[Array, "B R"] | None = None
    prompt: Int[Array, "B P"] | None = None
    keys: Keys = field(default_factory=lambda: Keys(None))
    inputs: Any = None
    cross_inputs: Any = None


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """What a stack tells its layers when they are built.

    width:    of the residual stream.
    kernel_init: (inputs, shrink=1.0, residual=False) -> the initializer of a kernel with so many inputs. shrink: factor on the deviation of the kinds that
              depend on the inputs; residual: the kernel writes to the residual stream.
    bidirectional: tokens also see those after them.
    memory_width: of the encoder's output, where there is cross attention.
    dropout:  rate within feed-forward layers.
    quantization: of the matrix products with kernels.
    """

    width: int
    kernel_init: Callable[..., Initializer]
    bidirectional: bool = False
    memory_width: int | None = None
    dropout: float = 0.0
    quantization: Quantization = "none"


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What a kind of mixer can do. What is not declared is refused when a configuration asks for it.

    bidirectional: mix with later tokens too, in encoders.
    packing:  keep the segments of a row apart.
    prefix:   let all tokens of a segment see its prefix.
    decoding: a step form, with a state.
    context:  rows divided over devices along their length.
    """

    bidirectional: bool = False
    packing: bool = False
    prefix: bool = False
    decoding: bool = False
    context: bool = False


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a model or a run asks of its mixers; the names are those of `Capabilities`. dtype: of the computation."""

    bidirectional: bool = False
    packing: bool = False
    prefix: bool = False
    decoding: bool = False
    context: int = 1
    dtype: str = "float32"


class Mixer(nnx.Module, abc.ABC):
    """Mixes information between positions."""

    @abc.abstractmethod
    def __call__(self, x: Float[Array, "B L D"], context: Context) -> tuple[Float[Array, "B L D"], Aux]:
        """Mix whole rows; also return what there is to report, {} for nothing."""

    def prefill(self, x: Float[Array, "B L D"], context: Context, length: int) -> tuple[Float[Array, "B L D"], State]:
        """Mix whole rows, a prompt each that is padded at its end; also return a state with room for `length` positions."""
        raise NotImplementedError(f"{type(self).__name__} has no step form")

    def step(
        self, x: Float[Array, "B 1 D"], state: Any, context: Context, shared: Any = None
    ) -> tuple[Float[Array, "B 1 D"], Any]:
        """Mix one more position a row, at `context.index`, with those before it; also return the state with what it gains.

        shared: what `State.shared` returned, where rows are hypotheses on one prompt.
        """
        raise NotImplementedError(f"{type(self).__name__} has no step form")

    def step_entry(
        self, x: Float[Array, "B 1 D"], state: Any, context: Context, shared: Any = None
    ) -> tuple[Float[Array, "B 1 D"], Any]:
        """Mix as `step` does; return in place of the state what `State.write` puts in it, for the states of all layers to be written at once."""
        return self.step(x, state, context, shared)


class CrossMixer(nnx.Module, abc.ABC):
    """Brings information from an encoder's output to the positions."""

    @abc.abstractmethod
    def read(self, memory: Float[Array, "B k M"]) -> Any:
        """Return what is needed of the encoder's output, for `__call__` and `keep`."""

    @abc.abstractmethod
    def __call__(self, x: Float[Array, "B L D"], memory: Any, context: Context) -> tuple[Float[Array, "B L D"], Aux]:
        """Mix whole rows, given what `read` returned."""

    @abc.abstractmethod
    def keep(self, memory: Any) -> Any:
        """Return what `read` returned as steps read it, a pytree with the rows first."""

    @abc.abstractmethod
    def step(self, x: Float[Array, "R 1 D"], memory: Any, context: Context) -> Float[Array, "R 1 D"]:
        """Mix one more position a row, given what `keep` returned; R / B rows one after the other share a row of it."""


class TableConfig(abc.ABC):
    """A module with parameters that the mixers of several layers have in common. Equal configurations are one module."""

    @abc.abstractmethod
    def build(self, options: BuildOptions) -> nnx.Module:
        """Return the module."""


@dataclass(frozen=True, kw_only=True)
class MixerConfig(Configuration, abc.ABC):
    """The configuration of a kind of mixer.

    name: of the mixer's parameters within a layer.
    capabilities: what the kind can do.
    """

    name: ClassVar[str] = "mixer"
    capabilities: ClassVar[Capabilities] = Capabilities()

    @abc.abstractmethod
    def build(self, options: BuildOptions) -> Mixer:
        """Return the mixer."""

    def build_cross(self, options: BuildOptions) -> CrossMixer:
        """Return what brings the encoder's output in. Raises UserError where the kind has no such form."""
        raise UserError(f"{type(self).__name__} cannot read an encoder's output (model.decoder)")

    def tables(self) -> Mapping[str, TableConfig]:
        """Return modules beside the mixers, by the name of their parameters; {} for none."""
        return {}

    @property
    def tables_per_layer(self) -> bool:
        """Whether each layer has the modules of `tables` to itself; otherwise a stack has them once."""
        return False

    def prepare(self, context: Context, tables: Mapping[str, Any]) -> Any:
        """Return what mixers of this configuration derive from a context, to be computed once for all layers of a stack: `Context.inputs`.

        tables: the modules of `tables`.
        """
        return None

    def prepare_cross(self, context: Context) -> Any:
        """Return the same for cross attention: `Context.cross_inputs`."""
        return None

    @property
    def keeps_products(self) -> bool:
        """Whether matrix products within the mixer may be kept for the backward pass; False where it computes them again itself."""
        return True

    def row_bytes(self, length: int) -> int:
        """Return about how many bytes a pass over one row of `length` tokens takes on a CPU beyond what grows with the length alone; 0 for none."""
        return 0

    def check(self, needs: Needs) -> None:
        """Raise UserError where the kind cannot do what is needed."""
        for name, why in self._lacks(needs):
            raise UserError(f"mixer {type(self).__name__} {why} (capabilities.{name} is False)")

    def _lacks(self, needs: Needs) -> Iterator[tuple[str, str]]:
        can = self.capabilities
        if needs.bidirectional and not can.bidirectional:
            yield "bidirectional", "sees no later tokens; an encoder's layers must"
        if needs.prefix and not can.prefix:
            yield "prefix", "has no prefix that all of its segment sees (--model.mask prefix). Nearest: causal"
        if needs.decoding and not can.decoding:
            yield "decoding", "has no step form, which a decoder needs to generate text"
        if needs.packing and not can.packing:
            yield "packing", "does not keep the texts of a packed row apart (--data.pack). Nearest: False"
        if needs.context > 1 and not can.context:
            yield "context", f"is not divided along the length of rows (--mesh.context {needs.context}). Nearest: 1"

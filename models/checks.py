"""Relations between options of stacks, each refused in one line if it does not hold."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, get_args

from t2t.errors import UserError, nearest

if TYPE_CHECKING:
    from t2t.models.config import StackConfig


def one_of(field: str, value: str, choices: object) -> None:
    """Raise UserError unless `value` is one of the values of the Literal `choices`."""
    valid = get_args(choices)
    if value not in valid:
        raise UserError(f"unknown {field} {value!r} (model.{field}).{nearest(str(value), valid)}")


def check_even_buckets(side: str, stack: StackConfig) -> None:
    """Raise UserError if a bidirectional stack (an encoder) has an odd number of relative position buckets.

    T5 uses half of the buckets for keys before the query and half for keys after it (Raffel et al. 2020, section 2.1).
    """
    if stack.positions == "relative" and stack.buckets % 2:
        raise UserError(
            f"model.{side}.buckets is {stack.buckets}; it must be even, because each direction has half of the buckets."
            f" Nearest: {stack.buckets + 1}."
        )


def check_equal(one: tuple[str, StackConfig], other: tuple[str, StackConfig], names: Iterable[str], why: str) -> None:
    """Raise UserError if two stacks, given as (side, configuration), differ in a field of `names`."""
    for name in names:
        wanted, found = getattr(one[1], name), getattr(other[1], name)
        if found != wanted:
            raise UserError(
                f"model.{other[0]}.{name} is {found!r} and model.{one[0]}.{name} is {wanted!r}; {why}. Nearest: {wanted}."
            )


def _nearest_divisor(number: int, value: int) -> int:
    """Return the divisor of `number` that is nearest to `value`."""
    return min((n for n in range(1, number + 1) if number % n == 0), key=lambda n: abs(n - value))


def check_heads(stack: StackConfig) -> None:
    """Raise UserError if the heads do not divide the width, or the key and value heads do not divide the heads."""
    if stack.head_dim is None and stack.d_model % stack.num_heads:
        raise UserError(
            f"model.num_heads is {stack.num_heads}, which does not divide model.d_model = {stack.d_model} (and model.head_dim is not set)."
            f" Nearest: {_nearest_divisor(stack.d_model, stack.num_heads)}."
        )
    if stack.num_heads % stack.key_heads:
        raise UserError(
            f"model.num_kv_heads is {stack.num_kv_heads}, which does not divide model.num_heads = {stack.num_heads}."
            f" Nearest: {_nearest_divisor(stack.num_heads, stack.key_heads)}."
        )


def check_positions(stack: StackConfig) -> None:
    """Raise UserError if the positions do not suit other options."""
    if stack.positions == "rotary":
        stack.rotary.rotated_size(stack.latent.rotary_dim if stack.latent.rank else stack.head_size)
    if stack.learned_positions and stack.positions not in ("relative", "disentangled"):
        raise UserError(
            f"model.learned_positions is True, but model.positions is {stack.positions!r}; learned positions are added to relative or disentangled ones."
            " Nearest: False."
        )
    if stack.positions == "disentangled" and stack.key_heads != stack.num_heads:
        raise UserError(
            f"model.num_kv_heads is {stack.num_kv_heads}, and model.positions is 'disentangled', which needs keys of its own for each of the"
            f" {stack.num_heads} heads. Nearest: {stack.num_heads}."
        )
    if stack.positions == "relative" and stack.max_distance <= stack.buckets // 2:
        raise UserError(
            f"model.max_distance is {stack.max_distance}; it must be more than half of model.buckets = {stack.buckets}."
            f" Nearest: {stack.buckets // 2 + 1}."
        )


def check_order(stack: StackConfig) -> None:
    """Raise UserError if the order of sublayers, of groups or of the pattern's layers is not possible."""
    if stack.groups is not None and stack.num_layers % stack.groups:
        raise UserError(
            f"model.groups is {stack.groups}, which does not divide model.num_layers = {stack.num_layers}."
            f" Nearest: {_nearest_divisor(stack.num_layers, stack.groups)}."
        )
    if stack.parallel and stack.norm_place == "post":
        raise UserError(
            "model.parallel is True, and model.norm_place is 'post': a norm of the sum after each sublayer needs one sublayer after the other."
            " Nearest: pre."
        )
    if stack.pattern and stack.groups is not None:
        raise UserError(
            f"model.groups is {stack.groups} together with a pattern of {len(stack.pattern)} layers; groups need layers that are all the same. Nearest: None."
        )
    if stack.first and (stack.groups is not None or len(stack.first) >= stack.num_layers):
        raise UserError(
            f"model.first has {len(stack.first)} layers together with model.num_layers = {stack.num_layers} and model.groups = {stack.groups}; there must be"
            " more layers than these, and no groups. Nearest: ()."
        )


def check_handed(stack: StackConfig) -> None:
    """Raise UserError if a mixer hands values on from inside the pattern, or a mixer has no earlier layer that hands values on to it."""
    handing = False
    for name, layers in (("first", stack.first), ("pattern", stack.pattern)):
        for place, layer in enumerate(layers):
            mixer, where = layer.mixer, f"model.{name}[{place}].mixer"
            if mixer is None:
                continue
            if mixer.hands_on and name == "pattern":
                raise UserError(
                    f"{where} is a {type(mixer).__name__} that hands values on to later layers, which only layers before the pattern can do. Nearest: model.first."
                )
            if mixer.takes_handed and not handing:
                raise UserError(
                    f"{where} is a {type(mixer).__name__} that needs values of an earlier layer, and no layer before it hands them on. Nearest: one in model.first."
                )
            handing = handing or mixer.hands_on


def check_experts(stack: StackConfig) -> None:
    """Raise UserError if the options of experts contradict others."""
    if stack.moe_every > 1 and (stack.pattern or stack.first or not stack.num_experts or stack.groups is not None):
        raise UserError(
            f"model.moe_every is {stack.moe_every}; it needs model.num_experts, and neither groups nor a pattern, whose places have num_experts of their own."
            " Nearest: 1."
        )
    if stack.moe_every > stack.num_layers:
        raise UserError(
            f"model.moe_every is {stack.moe_every}, more than model.num_layers = {stack.num_layers}: no layer would have experts. Nearest: {stack.num_layers}."
        )
    if stack.num_experts and not stack.expert_size:
        raise UserError(
            f"model.num_experts is {stack.num_experts}, and model.d_ff is 0: the experts have no width. Set model.expert_d_ff."
        )
    places = (*stack.first, *stack.places)
    numbers = {stack.num_experts if place.num_experts is None else place.num_experts for place in places}
    if stack.sub_norms and max(numbers):
        raise UserError("model.sub_norms is True, and experts have no norm of their inner layers. Nearest: False.")
    if len(numbers - {0}) > 1 and stack.router.balance_over in ("model", "row"):
        raise UserError(
            f"model.router.balance_over is {stack.router.balance_over!r}, and layers have {' and '.join(map(str, sorted(numbers - {0})))} experts: the loss of"
            " all layers together needs the same number in each. Nearest: layer."
        )


def check_latent(stack: StackConfig) -> None:
    """Raise UserError if latent attention does not suit other options."""
    if not stack.latent.rank:
        return
    for name, found, needed in (
        ("positions", stack.positions, "rotary"),
        ("num_kv_heads", stack.key_heads, stack.num_heads),
        ("qk_norm", stack.qk_norm, False),
        ("window", stack.window, None),
        ("attention_sinks", stack.attention_sinks, False),
        ("attention_gate", stack.attention_gate, False),
        ("sub_norms", stack.sub_norms, False),
        ("global_block", stack.global_block, None),
    ):
        if found != needed:
            raise UserError(
                f"model.{name} is {found!r}, and model.latent.rank is {stack.latent.rank}: latent attention does not support it. Nearest: {needed}."
            )

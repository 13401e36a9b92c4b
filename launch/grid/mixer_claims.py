"""Published orderings of mixers, experts and ternary weights, to check against the results of a grid."""

from __future__ import annotations

from t2t.launch.grid.design import Claim

_ATTENTION = "attention / the reference"
_DELTA = "gated DeltaNet / equal parameters"
_HYBRID = "hybrid / equal parameters"
_RECURRENT = tuple(f"{row} / equal parameters" for row in ("Mamba-2", "RWKV-7", "RetNet", "gated DeltaNet"))
YANG = "Yang et al. 2024, https://arxiv.org/abs/2412.06464"

CLAIMS = (
    Claim(
        text="attention finds more values than recurrent mixers",
        source="Arora et al. 2023, https://arxiv.org/abs/2312.04927",
        measure="recall",
        stage="recall",
        better=(_ATTENTION,),
        than=_RECURRENT,
    ),
    Claim(
        text="gated DeltaNet finds more values than Mamba-2",
        source=YANG,
        measure="recall",
        stage="recall",
        better=(_DELTA,),
        than=("Mamba-2 / equal parameters",),
    ),
    Claim(
        text="gated DeltaNet is ahead of Mamba-2",
        source=YANG,
        measure="loss",
        stage="documentation",
        better=(_DELTA,),
        than=("Mamba-2 / equal parameters",),
    ),
    Claim(
        text="a hybrid is ahead of both of its parts",
        source=YANG,
        measure="loss",
        stage="documentation",
        better=(_HYBRID,),
        than=(_ATTENTION, _DELTA),
    ),
    Claim(
        text="with as many FLOPs, experts are ahead of one feed-forward layer",
        source="Fedus et al. 2022, https://arxiv.org/abs/2101.03961",
        measure="loss",
        stage="documentation",
        better=("experts / equal FLOPs",),
        than=(_ATTENTION,),
    ),
    Claim(
        text="a small model is better with float weights than with ternary weights",
        source="Ma et al. 2024, https://arxiv.org/abs/2402.17764, table 1",
        measure="loss",
        stage="documentation",
        better=(_ATTENTION,),
        than=("BitNet / equal parameters and FLOPs",),
    ),
)

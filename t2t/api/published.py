"""Published pretraining settings of the presets, with the source of each value.

The recipe of a preset always trains on C4 with the vocabulary of its task, and, except for ModernBERT, with a constant batch size, even if the paper
differs.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass

from t2t.data.ramp import parse
from t2t.optim import (
    Adafactor,
    AdamW,
    Cosine,
    InverseSquareRoot,
    Linear,
    OptimizerConfig,
    StableAdamW,
    WarmupStableDecay,
)


@dataclass(frozen=True, kw_only=True)
class Pretraining:
    """Pretraining settings of a preset.

    length: tokens per row.
    rows:   rows per batch.
    steps:  number of updates.
    source: the paper and section of the values.
    ours:   values that the source does not give, or that differ here.
    ramp:   rows of the first batches (`Data.batch_ramp`); None if all batches have `rows`.
    """

    length: int
    rows: int
    steps: int
    optimizer: OptimizerConfig
    source: str
    ours: str
    ramp: str | None = None

    @property
    def tokens(self) -> int:
        """Tokens per batch."""
        return self.length * self.rows


_BILLION = 10**9


def _gpt1() -> Pretraining:
    # 100 passes over BooksCorpus: 984,846,357 words (Zhu et al. 2015, table 2).
    steps = round(100 * 984_846_357 / (64 * 512))
    return Pretraining(
        length=512,
        rows=64,
        steps=steps,
        optimizer=AdamW(
            schedule=Cosine(peak=2.5e-4, warmup=2_000, steps=steps, final=0.0), b2=0.999, weight_decay=0.01
        ),
        source="Radford et al. 2018, section 4.1",
        ours="Adam's constants and clipping at 1 (from the released fine-tuning code), and the number of steps: 100 passes over 985 million words, one token per word",
    )


# size: (rows, peak). Batches of 0.5, 1, 2 and 3.2 million tokens are 256, 512, 1,024 and 1,536 rows, which divide evenly over meshes.
_GPT3 = {
    "125m": (256, 6.0e-4),
    "350m": (256, 3.0e-4),
    "760m": (256, 2.5e-4),
    "1.3b": (512, 2.0e-4),
    "2.7b": (512, 1.6e-4),
    "6.7b": (1024, 1.2e-4),
    "13b": (1024, 1.0e-4),
    "175b": (1536, 0.6e-4),
}


def _gpt3(rows: int, peak: float, length: int = 2048) -> Pretraining:
    tokens = rows * length
    # Appendix B: warm-up over 375 million tokens, decay until 260 billion tokens, training until 300 billion tokens.
    schedule = Cosine(
        peak=peak, warmup=round(0.375 * _BILLION / tokens), steps=round(260 * _BILLION / tokens), final=0.1
    )
    return Pretraining(
        length=length,
        rows=rows,
        steps=round(300 * _BILLION / tokens),
        optimizer=AdamW(schedule=schedule, b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.1, clip_norm=1.0),
        source="Brown et al. 2020, table 2.1 (learning rate and batch) and appendix B",
        ours="a constant batch size; the paper's batch grows from 32,000 tokens over the first 4 to 12 billion tokens",
    )


# size: peak learning rate of the GPT-3 nearest in size
_GPT2 = {"small": 6.0e-4, "medium": 3.0e-4, "large": 2.5e-4, "xl": 2.0e-4}


def _gpt2(peak: float) -> Pretraining:
    like = _gpt3(512, peak, length=1024)
    return Pretraining(
        length=like.length,
        rows=like.rows,
        steps=like.steps,
        optimizer=like.optimizer,
        source="Radford et al. 2019, section 2.3: rows of 1,024 tokens, 512 rows per batch",
        ours="all other values, which the paper does not give, are those of the GPT-3 nearest in size (Brown et al. 2020, table 2.1 and appendix B)",
    )


_LLAMA2_ADAM = "AdamW 0.9/0.95, epsilon 1e-5, decay 0.1, clipping at 1"


def _llama(
    *, length: int, rows: int, tokens: float, peak: float, warmup: int, final: float, eps: float, source: str, ours: str
) -> Pretraining:
    steps = round(tokens / (length * rows))
    schedule = Cosine(peak=peak, warmup=warmup, steps=steps, final=final)
    optimizer = AdamW(schedule=schedule, b1=0.9, b2=0.95, eps=eps, weight_decay=0.1, clip_norm=1.0)
    return Pretraining(length=length, rows=rows, steps=steps, optimizer=optimizer, source=source, ours=ours)


def _llama2(**changes: object) -> Pretraining:
    values: dict[str, object] = {
        "length": 4096,
        "rows": 1024,
        "tokens": 2000 * _BILLION,
        "peak": 3.0e-4,
        "warmup": 2_000,
        "final": 0.1,
        "eps": 1e-5,
        "source": "Touvron et al. 2023 (LLaMA 2), section 2.2 and table 1: 2 trillion tokens, 4 million tokens per batch",
        "ours": "none",
    }
    return _llama(**{**values, **changes})  # type: ignore[arg-type]


def _llama3(peak: float) -> Pretraining:
    return _llama(
        length=8192,
        rows=1024,
        tokens=15_600 * _BILLION,
        peak=peak,
        warmup=8_000,
        final=0.01,
        eps=1e-5,
        source="Grattafiori et al. 2024, table 3 (learning rate) and section 3.4.1: warm-up, cosine decay to 1% of the peak, rows of 8,192 tokens, 15.6 trillion tokens",
        ours=(
            "section 3.4.1 gives these values for the 405B model only; a constant batch of 8 million tokens, where the paper uses 4, 8 and 16 million;"
            f" Adam's other constants are LLaMA 2's ({_LLAMA2_ADAM})"
        ),
    )


def _smollm2(*, rows: int, trillions: int, peak: float, decay: float, ours: str) -> Pretraining:
    length = 2048
    steps = round(trillions * 1000 * _BILLION / (rows * length))
    schedule = WarmupStableDecay(peak=peak, warmup=2_000, steps=steps, decay_steps=round(decay * steps))
    return Pretraining(
        length=length,
        rows=rows,
        steps=steps,
        optimizer=AdamW(schedule=schedule, b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.1, clip_norm=1.0),
        source="Allal et al. 2025 (SmolLM2): warm-up, constant learning rate, linear decay to 0 at the end; rows of 2,048 tokens",
        ours=f"{ours}epsilon, weight decay and clipping; the preset's rotary positions are from its later extension to 8,192 tokens",
    )


def _bert() -> Pretraining:
    steps = 1_000_000
    return Pretraining(
        length=512,
        rows=256,
        steps=steps,
        optimizer=AdamW(
            schedule=Linear(peak=1e-4, warmup=10_000, steps=steps), b1=0.9, b2=0.999, eps=1e-6, weight_decay=0.01
        ),
        source="Devlin et al. 2019, appendix A.2; epsilon and clipping at 1 from the released code",
        ours="all rows have 512 tokens, while 90% of the paper's steps use 128; no next-sentence prediction; Adam with bias correction",
    )


# size: (length, rows, peak, steps)
_ELECTRA = {
    "small": (128, 128, 5e-4, 1_000_000),
    "base": (512, 256, 2e-4, 766_000),
    "large": (512, 2048, 2e-4, 400_000),
}


def _electra(length: int, rows: int, peak: float, steps: int) -> Pretraining:
    return Pretraining(
        length=length,
        rows=rows,
        steps=steps,
        optimizer=AdamW(
            schedule=Linear(peak=peak, warmup=10_000, steps=steps), b1=0.9, b2=0.999, eps=1e-6, weight_decay=0.01
        ),
        source="Clark et al. 2020, table 6; clipping at 1 from the released code",
        ours="Adam with bias correction",
    )


_LONGER = "the released checkpoints were trained for 1 million steps of 2,048 rows (section 3.7): use --batch-size 2048 --steps 1000000 for these"


def _t5(ours: str) -> Pretraining:
    # Adafactor with learning rate 1 / sqrt(max(step, 10,000)); 2^16 tokens per batch, 2^19 steps.
    return Pretraining(
        length=512,
        rows=128,
        steps=2**19,
        optimizer=Adafactor(schedule=InverseSquareRoot(peak=1e-2, warmup=10_000)),
        source="Raffel et al. 2020, section 3.1.2, pretraining of the baseline",
        ours=ours,
    )


_T5_1_0 = _t5(
    f"the baseline's settings for all sizes, without the mixture of supervised tasks of the released checkpoints; {_LONGER}"
)
_T5_1_1 = _t5(f"the settings of the T5 1.0 baseline, without dropout; {_LONGER}")


def _modernbert(
    *, first: int, rows: int, grown: float, tokens: float, peak: float, rise: float, ours: str, length: int = 1024
) -> Pretraining:
    # Appendix A.1: rows grow from `first` over `grown` tokens, with as many updates at each size. Here they grow by `first` at a time.
    sizes = range(first, rows, first)
    each = round(grown / (length * sum(sizes)))
    ramp = ",".join(f"{each * place}:{size}" for place, size in enumerate([*sizes, rows]))

    def updates(tokens: float) -> int:
        return bisect.bisect_left(range(10**7), tokens / length, key=parse(ramp).up_to)

    decay = 50 * _BILLION
    steps = updates(tokens + decay)
    schedule = WarmupStableDecay(
        peak=peak, warmup=updates(rise), steps=steps, decay_steps=round(decay / (rows * length)), shape="sqrt"
    )
    return Pretraining(
        length=length,
        rows=rows,
        steps=steps,
        # Appendix A.3: a fully decoupled decay of 1e-5. The decay of our optimizers is multiplied by the learning rate.
        optimizer=StableAdamW(schedule=schedule, b1=0.9, b2=0.98, eps=1e-6, weight_decay=1e-5 / peak),
        source="Warner et al. 2024 (ModernBERT), section 2.2.2, appendix A.1 and A.3, table 3: 30% of the tokens masked, rows of 1,024 tokens",
        ours=(
            "the decay over 50 billion tokens follows directly, without the extension to 8,192 tokens over 250 billion tokens before it;"
            f" batches grow by {first} rows at a time, the paper's by one; the weight decay shrinks with the update's size; no dropout of 0.1 on"
            f" attention's output; the preset's rotary base of global layers is from the extension; {ours}"
        ),
        ramp=ramp,
    )


def _neobert() -> Pretraining:
    steps = 1_000_000
    # The cosine ends after 90% of the steps.
    schedule = Cosine(peak=6e-4, warmup=2_000, steps=900_000, final=0.1)
    return Pretraining(
        length=1024,
        rows=2048,
        steps=steps,
        optimizer=AdamW(schedule=schedule, b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.1, clip_norm=1.0),
        source="Le Breton et al. 2025 (NeoBERT), section 3: 20% of the tokens masked, rows of 1,024 tokens, 2 million tokens per batch; released code: all of them become the mask",
        ours="without the 50,000 steps on rows of 4,096 tokens that follow",
    )


def _bart(*, rows: int, steps: int, peak: float, clip_norm: float, source: str, ours: str) -> Pretraining:
    return Pretraining(
        length=512,
        rows=rows,
        steps=steps,
        optimizer=AdamW(
            schedule=Linear(peak=peak, warmup=10_000, steps=steps), b2=0.999, weight_decay=0.01, clip_norm=clip_norm
        ),
        source=f"Lewis et al. 2020 (BART), {source}; 30% of the tokens in spans of Poisson length 3 masked, all sentences permuted (section 5.1)",
        ours=f"{ours}; Adam's constants (fairseq's defaults); dropout stays on in the last tenth of the steps, in which the paper disables it for the large model",
    )


_BART = {
    "base": _bart(
        rows=256,
        steps=1_000_000,
        peak=1e-4,
        clip_norm=1.0,
        source="section 4.1: 1 million steps, as BERT, for models of this size",
        ours=(
            "all other values, which the paper does not give for this size: rows, length, peak, warm-up, decay and clipping are those of BERT (Devlin et al. 2019,"
            " appendix A.2); the objective is that of the large model"
        ),
    ),
    "large": _bart(
        rows=8000,
        steps=500_000,
        peak=4e-4,
        clip_norm=0.1,
        source="section 5.1: batch and steps",
        ours=(
            "all other values, which the paper does not give: rows of 512 tokens, peak, warm-up, decay, clipping (a command in issue 1899 of fairseq)"
        ),
    ),
}


PUBLISHED: dict[str, Pretraining] = {
    **{f"t5:1.0-{size}": _T5_1_0 for size in ("small", "base", "large", "3b", "11b")},
    **{f"t5:1.1-{size}": _T5_1_1 for size in ("small", "base", "large", "xl", "xxl")},
    "gpt:1": _gpt1(),
    **{f"gpt:2-{size}": _gpt2(peak) for size, peak in _GPT2.items()},
    **{f"gpt:3-{size}": _gpt3(rows, peak) for size, (rows, peak) in _GPT3.items()},
    "bert:base": _bert(),
    "bert:large": _bert(),
    "modernbert:base": _modernbert(
        first=768,
        rows=4608,
        grown=50 * _BILLION,
        tokens=1719 * _BILLION,
        peak=8e-4,
        rise=3 * _BILLION,
        ours="no average of the last checkpoints",
    ),
    "modernbert:large": _modernbert(
        first=448,
        rows=4928,
        grown=10 * _BILLION,
        tokens=1700 * _BILLION,
        peak=5e-4,
        rise=2 * _BILLION,
        ours="one peak and weight decay, where the paper goes on with 5e-5 and 1e-6 after 900 billion tokens; parameters do not start from ModernBERT-base",
    ),
    "neobert:250m": _neobert(),
    **{f"bart:{size}": settings for size, settings in _BART.items()},
    **{f"electra:{size}": _electra(*values) for size, values in _ELECTRA.items()},
    "llama:2-7b": _llama2(),
    "llama:3-8b": _llama3(3.0e-4),
    "llama:3-70b": _llama3(1.5e-4),
    "llama:mistral-7b": _llama2(
        length=8192,
        rows=512,
        source="Jiang et al. 2023 (Mistral 7B), table 1: rows of 8,192 tokens",
        ours="all other values, which the paper does not give, are those of LLaMA 2 7B",
    ),
    "llama:smollm2-135m": _smollm2(rows=512, trillions=2, peak=3e-3, decay=0.2, ours="a batch of 1 million tokens, "),
    "llama:smollm2-360m": _smollm2(rows=512, trillions=4, peak=3e-3, decay=0.2, ours="a batch of 1 million tokens, "),
    "llama:smollm2-1.7b": _smollm2(rows=1024, trillions=11, peak=5e-4, decay=0.1, ours=""),
}
"""Preset -> its pretraining settings."""

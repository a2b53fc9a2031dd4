"""Check what a training left: the losses and gradients that it logged, and its weights."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from logreasoner.cli import UserError
from logreasoner.schemas import Stage

TOLERANCE = 0.03  # of a first loss, relative: half precision moves it a little
WORSE, SLACK = 2.0, 0.1  # a training has diverged whose last losses are above so many times the first, and so much more
# Of the types of floating-point tensors: as unsigned integers, and the bits that are all set in NaN and infinity.
EXPONENTS = {"BF16": ("<u2", 0x7F80), "F16": ("<u2", 0x7C00), "F32": ("<u4", 0x7F800000), "F64": ("<u8", 0x7FF << 52)}
CHUNK = 1 << 24  # numbers looked at together


def first_loss(stage: Stage) -> tuple[float, float]:
    """Return the least and the largest first loss of a preference training, whatever its data.

    A loss with a reference starts with policy = reference, so every log ratio is 0 (TRL 0.19, dpo_loss and kto_loss):
    sigmoid ln 2, hinge 1, IPO (1 / (2 beta))^2, its log ratios being means over tokens; KTO half the weight of each
    sample. ORPO and SimPO have no reference and are only known to be positive, and so is everything with a further term
    that the data decide.
    """
    given, beta = stage.arguments, float(stage.arguments.get("pref_beta", 0.1))
    weights = [float(given.get(f"kto_{side}_weight", 1.0)) / 2 for side in ("chosen", "rejected")]
    if not stage.has_reference or any(given.get(name) for name in ("pref_ftx", "pref_bco_weight", "ld_alpha")):
        return 0.0, math.inf
    return {"sigmoid": (math.log(2),) * 2, "hinge": (1.0, 1.0), "ipo": ((2 * beta) ** -2,) * 2,
            "kto": (min(weights), max(weights))}[stage.loss]


def check_first_loss(losses: list[dict[str, Any]], stage: Stage, where: Path) -> None:
    """Raise UserError unless the first loss of a preference training is what its definition says."""
    (least, largest), first = first_loss(stage), losses[0]["loss"] if losses else math.nan
    if not (math.isfinite(first) and least * (1 - TOLERANCE) <= first <= largest * (1 + TOLERANCE)):
        expected = f"{least:.4f}" if least == largest else f"from {least:.4f} to {largest:.4f}"
        raise UserError(f"{where}: the first loss ({stage.loss}) is {first:.4f}, not {expected}: " + (
            "the reference is not the model that training started from" if stage.has_reference else
            "the training diverged at its first step"))


def check_losses(steps: list[dict[str, Any]], where: Path, fp16: bool = False) -> None:
    """Raise UserError if a logged loss or gradient norm is not finite, all are 0 in the second half, or losses rise.

    The trainer logs 0 for a loss that is NaN; the gradient tells it from an answer that is known by heart. With fp16 a
    gradient may be infinite: that step is left out and the scale lowered.
    """
    names = ["loss"] if fp16 else ["loss", "grad_norm"]
    bad = [f"{name} {step[name]} at step {step.get('step')}" for step in steps for name in names
           if not math.isfinite(step.get(name, 0.0))]
    half, count = steps[len(steps) // 2:], max(1, len(steps) // 10)
    if not steps:
        bad = ["no loss logged"]
    elif not bad and not any(step["loss"] or step.get("grad_norm") for step in half):
        bad = [f"loss and gradient are 0 from step {half[0].get('step')} on"]
    elif not bad and (last := _mean(steps[-count:])) > WORSE * (first := _mean(steps[:count])) + SLACK:
        bad = [f"the last losses are {last:.4f} on average, the first {first:.4f}"]
    if bad:
        more = f", and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise UserError(f"{where}: the training diverged ({bad[0]}{more}): lower its learning_rate in a new run, or "
                        f"see its log in logs/ of the run; then remove {where.parent}")


def _mean(steps: list[dict[str, Any]]) -> float:
    return fmean(step["loss"] for step in steps)


def tensors(folder: Path) -> Iterator[tuple[str, str, Any]]:
    """Yield (name, type, bits as a flat array of unsigned integers) of the floating-point tensors of a model's folder.

    Read by numpy, which has no bfloat16: safetensors' own reader needs torch for it. Raises UserError for a cut file.
    """
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with open(path, "rb") as stream:
                size = int.from_bytes(stream.read(8), "little")
                header = {name: row for name, row in json.loads(stream.read(size)).items() if name != "__metadata__"}
            data = np.memmap(path, np.uint8, "r", offset=8 + size)
            if len(data) != max(row["data_offsets"][1] for row in header.values()):
                raise ValueError("its end is missing")
            rows = [(name, row["dtype"], data[slice(*row["data_offsets"])]) for name, row in header.items()]
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise UserError(f"{path}: not a whole safetensors file ({error}); remove {folder}") from None
        yield from ((name, kind, part.view(EXPONENTS[kind][0])) for name, kind, part in rows if kind in EXPONENTS)


def _numbers(kind: str, bits: Any) -> Any:
    """Return the numbers of a tensor from its bits; bfloat16 as float32, whose upper half it is."""
    return (bits.astype("<u4") << 16).view("<f4") if kind == "BF16" else bits.view(bits.dtype.str.replace("u", "f"))


def check_weights(folder: Path, start: Path | None) -> None:
    """Raise UserError if trained weights hold NaN or infinity, or equal those that training started from.

    start: the folder of those, None where they are not here.
    """
    before = {name: (kind, bits) for name, kind, bits in tensors(start)} if start else {}
    count, bad, same = 0, [], None
    for name, kind, bits in tensors(folder):
        mask = EXPONENTS[kind][1]
        if any(bool((part & mask == mask).any()) for part in np.array_split(bits, len(bits) // CHUNK + 1)):
            bad.append(name)
        if name in before and same is not False:
            same = np.array_equal(_numbers(kind, bits), _numbers(*before[name]))
        count += 1
    if bad:
        more = ", ..." if len(bad) > 1 else ""
        raise UserError(f"{folder}: {len(bad)} of {count} tensors hold NaN or infinity ({bad[0]}{more}): the training "
                        f"diverged; lower its learning_rate in a new run, or remove {folder.parent}")
    if same:
        raise UserError(f"{folder}: the weights equal those of {start}, from which training started: nothing was learnt"
                        f". See its learning_rate and its log in logs/ of the run, and remove {folder.parent}")

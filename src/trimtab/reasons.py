"""Reasons: why a controller turned a knob, in plain words.

Letters: ``S`` sites, ``K`` knobs, ``F`` features.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import torch
from torch import nn

from trimtab.controller import Controller
from trimtab.features import Features
from trimtab.helm import Decision
from trimtab.knobs import Panel
from trimtab.signals import Signals

MUCH = 99  # a ratio beyond it is mostly the bound that features have
PHRASES: dict[
    str, tuple[str, str]
] = {  # what it is, and whether its unit is ln of something, log10 or the thing itself
    "trend_fast": ("the loss against its mean of 32 steps", "ln"),
    "trend_mid": ("the loss against its mean of 128 steps", "ln"),
    "trend_slow": ("the loss against its mean of 512 steps", "ln"),
    "noise": ("loss noise", "ln"),
    "best_gap": ("the loss against its best", "ln"),
    "progress_made": ("the loss against its first", "ln"),
    "bad_share": ("the share of losses that are not finite", "as is"),
    "val_gap": ("validation loss against training loss", "ln"),
    "val_trend": ("validation loss against the one before", "ln"),
    "val_best_gap": ("validation loss against its best", "ln"),
    "cos_update": ("cos(gradient, last update)", "as is"),
    "cos_grad": ("cos(gradient, last gradient)", "as is"),
    "update_ratio": ("the update's size against the weights'", "log10"),
    "grad_trend_fast": ("the gradient against its mean of 32 steps", "ln"),
    "grad_trend_slow": ("the gradient's mean of 32 steps against that of 256", "ln"),
    "snr": ("the gradient's signal-to-noise ratio", "as is"),
    "distance": ("the distance from the start", "log10"),
    "directness": ("the straightness of the way", "log10"),
    "lr_dog": ("the rate that DoG would take, against this one,", "ln"),
    "lr_dadapt": ("the rate that D-Adaptation would take, against this one,", "ln"),
    "lr_secant": ("the rate that the last step's curvature allows, against this one,", "ln"),
    "lr_polyak": ("Polyak's rate against this one", "ln"),
    "progress": ("progress along the horizon", "as is"),
    "horizon": ("the horizon's length", "as is"),
    "has_horizon": ("a declared horizon", "as is"),
    "age": ("the number of steps", "as is"),
    "has_val": ("a measured validation loss", "as is"),
    "depth": ("the site's depth", "as is"),
    "share": ("the site's share of the parameters", "as is"),
}


def phrase_of(feature: str) -> tuple[str, str]:
    """Give a feature's plain words and its unit: "ln" or "log10" of the thing named, or "as is".

    Args:
        feature: its name.

    Returns:
        Words that "rose" or "fell" can follow, and the unit.

    Example:
        >>> phrase_of("noise")
        ('loss noise', 'ln')
    """
    for prefix, words in (("mean_", "{}, mean over sites,"), ("rank_", "the rank of {}")):
        if feature.startswith(prefix) and feature.removeprefix(prefix) in PHRASES:
            phrase, unit = PHRASES[feature.removeprefix(prefix)]
            return words.format(phrase.rstrip(",")), "as is" if prefix == "rank_" else unit
    if feature.startswith("position_"):
        return f"the place of {feature.removeprefix('position_')} in its range", "as is"
    if feature.startswith("move_"):
        return f"the last move of {feature.removeprefix('move_')}", "as is"
    return PHRASES.get(feature, (feature, "as is"))


def reason_for(
    controller: Controller,
    panel: Panel,
    features: Features,
    decision: Decision,
    before: Decision | None,
    site: int,
    knob: int,
) -> str:
    """Say why a knob was turned.

    Args:
        controller: who turned it.
        panel: the knobs.
        features: names them.
        decision: what it saw and did.
        before: the decision before; None for the first.
        site: which, from 0.
        knob: likewise.

    Returns:
        A clause that goes on after "because".
    """
    if isinstance(controller, nn.Module):
        return _by_gradient(controller, panel, features, decision, before, site, knob)
    own = WORDS.get(controller.name)
    return f"{controller.name} decided so" if own is None else own(controller, decision, site, knob)


def attributions(
    controller: Controller, panel: Panel, decision: Decision, before: Decision | None, site: int, knob: int
) -> torch.Tensor:
    """Give ``[F]``: how much each feature's change moved a knob, to first order.

    That is ``d move / d feature * (feature - feature before)``, at the site itself. A controller with a memory is asked
    as if it had just begun: what it remembers is not traced back. Without a decision before, features count from 0.

    Args:
        controller: a module whose `act` autograd can follow.
        panel: the knobs.
        decision: what it saw.
        before: the decision before; None for the first.
        site: which, from 0.
        knob: likewise.

    Returns:
        ``[F]`` float64.
    """
    seen = decision.seen
    known = seen.features.detach().clone().requires_grad_()
    mind = controller.start(panel, *seen.position.shape[:2])
    with torch.enable_grad():
        move, _ = controller.act(dataclasses.replace(seen, features=known), mind)
        (slope,) = torch.autograd.grad(move[0, site, knob], known)
    last = torch.zeros_like(known) if before is None else before.seen.features
    return (slope * (known - last).detach())[0, site]


def _by_gradient(
    controller: Controller,
    panel: Panel,
    features: Features,
    decision: Decision,
    before: Decision | None,
    site: int,
    knob: int,
) -> str:
    share = attributions(controller, panel, decision, before, site, knob)
    if not bool(share.abs().max() > 0):
        return f"{controller.name} moves it at every reading"
    at = int(share.abs().argmax())
    now = float(decision.seen.features[0, site, at].detach())
    last = 0.0 if before is None else float(before.seen.features[0, site, at].detach())
    return _changed(features.names[at], last, now, is_first=before is None)


def _changed(feature: str, last: float, now: float, *, is_first: bool) -> str:
    phrase, unit = phrase_of(feature)
    verb = "rose" if now > last else "fell"
    if is_first:
        return f"{phrase} is {now:.2g}"
    if unit == "as is":
        return f"{phrase} {verb} from {last:.2g} to {now:.2g}"
    factor = math.exp(abs(now - last)) if unit == "ln" else 10 ** abs(now - last)
    if factor > MUCH:
        return f"{phrase} {verb} more than {MUCH}×"
    return f"{phrase} {verb} {factor:.2g}×" if factor >= 1.05 else f"{phrase} {verb} a little"


def _cosine(controller: Controller, decision: Decision, site: int, knob: int) -> str:
    signals: Signals = decision.seen.signals
    size = float(signals.grad_sq[0, site]) ** 0.5 * float(signals.update_sq[0, site]) ** 0.5
    cosine = float(signals.grad_dot_update[0, site]) / size if size > 0 else 0.0
    return f"cos(gradient, last update) = {cosine:.2f}"


def _slope(controller: Controller, decision: Decision, site: int, knob: int) -> str:
    slopes = decision.seen.signals.hypergrad
    return (
        "the hypergradient asks for it" if slopes is None else f"d loss / d knob = {float(slopes[0, site, knob]):.2g}"
    )


def _stuck(controller: Controller, decision: Decision, site: int, knob: int) -> str:
    return f"there was no improvement over {getattr(controller, 'patience', 0)} readings"


def _streak(controller: Controller, decision: Decision, site: int, knob: int) -> str:
    patience = getattr(controller, "patience", 0)
    if float(decision.move[0, site, knob]) > 0:
        return f"the loss improved more than {patience} readings in a row"
    return f"the loss did not improve for more than {patience} readings in a row"


WORDS: dict[str, Callable[[Controller, Decision, int, int], str]] = {
    "hypergradient": _cosine,
    "hypergradient-all": _slope,
    "plateau": _stuck,
    "greedy": _streak,
    "random": lambda controller, decision, site, knob: "it was drawn at random",
    "replay": lambda controller, decision, site, knob: "its record says so",
}

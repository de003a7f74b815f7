"""Spec: what a policy is, its weights apart, and how it lies in a file."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any, Literal, TypedDict, cast

from torch import Tensor

from trimtab.controllers.schedule import SCHEDULES
from trimtab.errors import KnobError, StateError
from trimtab.knobs import LEAP

Kind = Literal["mlp", "gru"]
FORMAT = "trimtab-policy-2"  # the only entry of a file's header: of several, safetensors does not keep the order


class Spec(TypedDict):
    """What a policy is, its weights apart; plain data that JSON can hold.

    Attributes:
        features: the ``F`` features' names, in order.
        center: where each typically lies.
        size: how far each typically spreads.
        knobs: the ``K`` knobs' names, in order.
        hidden: ``H``.
        kind: "mlp" or "gru".
        prior: the schedule under it, a name in :data:`trimtab.controllers.schedule.SCHEDULES`.
        reach: moves are within ``[-reach, reach]``, at most 1 ...
        leap: ... or, in the first ten steps, this many times as far, at most :data:`trimtab.knobs.LEAP`.
        calm: after them it reads moving means of what it sees of the training, which keep this share at a reading.
        average: the runs it was taught on were read at an average of their weights (:mod:`trimtab.averaging`).
    """

    features: list[str]
    center: list[float]
    size: list[float]
    knobs: list[str]
    hidden: int
    kind: Kind
    prior: str
    reach: float
    leap: float
    calm: float
    average: bool


def shapes_of(spec: Spec) -> dict[str, tuple[int, ...]]:
    """Give the weights' shapes by name."""
    wide, hidden, knobs = len(spec["features"]), spec["hidden"], len(spec["knobs"])
    layers = {"hidden": (hidden, wide)}
    if spec["kind"] == "gru":
        layers = {"input": (3 * hidden, wide), "memory": (3 * hidden, hidden)}
    layers["out"] = (knobs, hidden)
    shapes: dict[str, tuple[int, ...]] = {}
    for key, shape in layers.items():
        shapes |= {f"{key}_weight": shape, f"{key}_bias": shape[:1]}
    return shapes


def memory_of(spec: Spec) -> str:
    """Say what a policy remembers between readings, as some teachers cannot have it; "" for nothing."""
    parts = ["kind 'gru'"] * (spec["kind"] == "gru") + [f"calm {spec['calm']:g}"] * (spec["calm"] > 0)
    return " and ".join(parts)


def check(spec: Spec) -> None:
    """Check a spec.

    Args:
        spec: of a policy to be built.

    Raises:
        KnobError: it does not hold.
    """
    laws = {
        f"at least one feature, got {spec['features']}": len(spec["features"]) >= 1,
        "a center and a positive size of each feature": (
            len(spec["center"]) == len(spec["size"]) == len(spec["features"]) and min(spec["size"], default=1.0) > 0
        ),
        f"at least one knob, got {spec['knobs']}": len(spec["knobs"]) >= 1,
        f"`hidden >= 1`, got {spec['hidden']}": spec["hidden"] >= 1,
        f"`kind` 'mlp' or 'gru', got {spec['kind']!r}": spec["kind"] in {"mlp", "gru"},
        f"`prior` one of {', '.join(SCHEDULES)}, got {spec['prior']!r}": spec["prior"] in SCHEDULES,
        f"`reach` in (0, 1], got {spec['reach']}": 0 < spec["reach"] <= 1,
        f"`leap` in [1, {LEAP:g}], got {spec['leap']}": 1 <= spec["leap"] <= LEAP,
        f"`calm` in [0, 1), got {spec['calm']}": 0 <= spec["calm"] < 1,
        f"`average` true or false, got {spec['average']!r}": isinstance(spec["average"], bool),
    }
    for law, holds in laws.items():
        if not holds:
            raise KnobError(f"A policy needs {law}.")


def roles(names: Sequence[str]) -> list[str]:
    """Give names with ``beta1`` as ``momentum``: the same knob, of the same range, under another name."""
    return [name.replace("beta1", "momentum") for name in names]


def check_names(own: Sequence[str], given: Sequence[str]) -> None:
    """Check that the features there are, are those a policy was taught on.

    Args:
        own: the policy's, in order.
        given: those there are.

    Raises:
        StateError: they are others; says which.
    """
    if roles(own) == roles(given):
        return
    gone, new = [n for n in own if n not in given], [n for n in given if n not in own]
    change = f"missing now: {', '.join(gone) or 'none'}; unknown to it: {', '.join(new) or 'none'}"
    raise StateError(
        f"This policy was taught on {len(own)} features and there are {len(given)} ({change}; the order counts): use "
        f"the version of trimtab that it was saved with, or teach it anew."
    )


def read_file(path: str | os.PathLike[str]) -> tuple[Spec, dict[str, Tensor]]:
    """Read a policy's file; nothing in it is executed.

    Args:
        path: a safetensors file.

    Returns:
        Its spec, which is not checked yet, and its weights by name.

    Raises:
        StateError: it is damaged, or no policy of this version.
    """
    from safetensors import SafetensorError, safe_open

    where = os.fspath(path)
    try:
        with cast("Any", safe_open)(where, framework="pt") as file:
            header, names = file.metadata() or {}, file.keys()
            weights = {key: file.get_tensor(key) for key in names}
    except SafetensorError as error:
        raise StateError(f"{where!r} is damaged, or no safetensors file: {error}.") from error
    if FORMAT not in header:
        raise StateError(f"{where!r} is no policy of this version: its header has {sorted(header)}, not {FORMAT!r}.")
    try:
        spec = json.loads(header[FORMAT])
    except ValueError as error:
        raise StateError(f"{where!r} has no readable spec: {error}.") from error
    if isinstance(spec, dict):
        spec.setdefault("calm", 0.0)  # older files do not name these two
        spec.setdefault("average", False)
    return cast("Spec", spec), weights

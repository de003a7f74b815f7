"""Sites: which parameters a controller turns together.

A site of a live run is a set of parameter groups; :func:`groups` builds the groups, one a site, when the optimizer is
made (torch refuses to split groups under a scheduler). :func:`sites_of` gives the same sites by parameter names, for
the simulated end.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from torch import nn

from trimtab.errors import KnobError

REST = "rest"


def groups(model: nn.Module, by: str = "layer", **options: Any) -> list[dict[str, Any]]:
    """Build parameter groups, one a site, to be handed to a ``torch.optim`` optimizer.

    Args:
        model: the network; only parameters that require a gradient are taken.
        by: "layer" (every module that owns parameters is a site), "block" (the network's children, and each entry of
            a child that is a list), "run" (all in one), or a regular expression: parameters whose names give the same
            first group, or the same match, share a site; those it does not match share the site "rest".
        options: hyperparameters that all groups share, e.g. ``lr=1e-3``.

    Returns:
        One dictionary a site, in the network's order, with "params" and "name".

    Raises:
        KnobError: `by` is not a regular expression, or the network has nothing to train.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
        >>> [group["name"] for group in groups(net, by="layer", lr=0.1)]
        ['0', '2']
    """
    named = dict(model.named_parameters())
    return [
        {"params": [named[name] for name in names], "name": site, **options}
        for site, names in _split(model, by).items()
    ]


def sites_of(model: nn.Module, by: str = "layer") -> tuple[tuple[str, ...], ...]:
    """Give the names of the parameters of each site, as :func:`groups` splits them.

    Args:
        model: the network.
        by: as in :func:`groups`.

    Returns:
        For each site its parameters' names.

    Raises:
        KnobError: as in :func:`groups`.
    """
    return tuple(tuple(names) for names in _split(model, by).values())


def _split(model: nn.Module, by: str) -> dict[str, list[str]]:
    split: dict[str, list[str]] = {}
    for name, site in _sites(model, by):
        split.setdefault(site, []).append(name)
    if not split:
        raise KnobError("The network has no parameter that requires a gradient: there is nothing to train.")
    return split


def _sites(model: nn.Module, by: str) -> Iterator[tuple[str, str]]:
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    if by == "layer":
        return ((name, name.rpartition(".")[0] or name) for name in names)
    if by == "block":
        return ((name, _block(model, name)) for name in names)
    if by == "run":
        return ((name, "run") for name in names)
    try:
        pattern = re.compile(by)
    except re.error as error:
        raise KnobError(
            f"`by` must be 'layer', 'block', 'run' or a regular expression, got {by!r} ({error})."
        ) from error
    return ((name, _matched(pattern, name)) for name in names)


def _block(model: nn.Module, name: str) -> str:
    child, *rest = name.split(".")
    if len(rest) > 1 and isinstance(getattr(model, child), nn.ModuleList | nn.Sequential | nn.ModuleDict):
        return f"{child}.{rest[0]}"
    return child


def _matched(pattern: re.Pattern[str], name: str) -> str:
    match = pattern.search(name)
    return REST if match is None else (match.group(1) if pattern.groups else match.group(0))

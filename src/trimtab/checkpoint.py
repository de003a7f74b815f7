"""Checkpoint: what is read back fits, and what is written is whole.

A checkpoint is one file of :func:`torch.save`, loadable with ``weights_only=True``: a pilot's state and whatever its
owner puts beside it. It is written to a file of its own in the same folder, forced to disk and then moved into place,
so that a kill or a full disk leaves the last checkpoint as it was.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trimtab.errors import StateError
from trimtab.whole import written_whole

FORMAT = "trimtab-checkpoint-1"
SAME = ("controller", "knobs", "sites")  # what a state and its pilot must have alike
APART = ("gauge", "schedule", "snapshot", "average")  # what is checked by its owner


def write_checkpoint(path: str | os.PathLike[str], state: Mapping[str, Any], beside: Mapping[str, Any]) -> None:
    """Write a checkpoint as a whole or not at all.

    Args:
        path: where to; a file there is replaced once the new one is on disk.
        state: a pilot's state.
        beside: what its owner wants in the same file, e.g. the model's and the optimizer's ``state_dict()``.

    Raises:
        StateError: it cannot be written (a full disk, no such folder); what was there before is untouched.
    """
    try:
        with written_whole(path) as file:
            torch.save({"format": FORMAT, "pilot": dict(state), "beside": dict(beside)}, file)
    except (OSError, RuntimeError) as error:  # torch tells of a failed write by a RuntimeError
        raise StateError(
            f"The checkpoint {os.fspath(path)} cannot be written ({_first_line(error)}); what was there before is "
            f"untouched."
        ) from error


def read_checkpoint(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read what `write_checkpoint` wrote; tensors come to the host.

    Args:
        path: the file.

    Returns:
        The pilot's state and what lay beside it.

    Raises:
        StateError: there is no such file, it is damaged, or it is no checkpoint of a pilot's.
    """
    if not Path(path).is_file():
        raise StateError(f"There is no checkpoint at {os.fspath(path)!r}.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of files that are none of its own
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever damaged bytes make of an unpickler
        raise StateError(
            f"{os.fspath(path)!r} cannot be read as a checkpoint ({_first_line(error)}): it was cut off or damaged, or "
            f"is another program's. Go back to an earlier one."
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise StateError(
            f"{os.fspath(path)!r} is no checkpoint of a pilot's: read it with torch.load, and give what lies in it to "
            f"whoever saved it."
        )
    return content["pilot"], content["beside"]


def matched(state: Any, mine: Mapping[str, Any]) -> dict[str, Any]:
    """Check a pilot's state against one's own, before anything is changed.

    Args:
        state: what was read.
        mine: the own state, in whose form it is brought.

    Returns:
        The state; its tensors are copies, but in those entries that others check.

    Raises:
        StateError: it is no pilot's, of another version, or does not belong here.
    """
    if not isinstance(state, dict) or "helm" not in state or "version" not in state:
        raise StateError("This is no pilot's state: it has no 'helm' and 'version'. Was a scheduler's loaded?")
    if state["version"] != mine["version"]:
        raise StateError(f"This state is of version {state['version']}, this trimtab reads {mine['version']}.")
    state = {"average": {}} | state  # older ones do not name it
    for name in SAME:
        if state.get(name) != mine[name]:
            raise StateError(
                f"The state's {name} must be {mine[name]!r} as this pilot's, got {state.get(name)!r}: attach it the "
                f"same way."
            )
    if state.keys() != mine.keys() or not all(isinstance(state[name], dict) for name in APART):
        raise StateError(f"A pilot's state has {sorted(mine)}, got {sorted(map(str, state))}.")
    if state["schedule"].keys() != mine["schedule"].keys():
        raise StateError("The state is of a pilot around another schedule, or around none: wrap the same one.")
    rest = [name for name in mine if name not in APART]
    found: dict[str, Any] = fitted({name: state[name] for name in rest}, {name: mine[name] for name in rest})
    return found | {name: state[name] for name in APART}


def fitted(found: Any, like: Any, where: str = "state") -> Any:
    """Bring a tree that was read back into the form of a living one.

    Args:
        found: what was read.
        like: a tree of dictionaries, lists, tuples, tensors and scalars of the form it must have.
        where: its name, for the error.

    Returns:
        `found`'s entries, tensors copied to the device and dtype of `like`'s.

    Raises:
        StateError: an entry is missing, too many, or of another shape or type.
    """
    if isinstance(like, dict):
        if not isinstance(found, dict) or found.keys() != like.keys():
            names = sorted(map(str, found)) if isinstance(found, dict) else type(found).__name__
            raise StateError(f"The {where} must have {sorted(map(str, like))}, got {names}.")
        return {name: fitted(found[name], entry, f"{where}'s {name}") for name, entry in like.items()}
    if isinstance(like, list | tuple):
        if not isinstance(found, list | tuple) or len(found) != len(like):
            size = len(found) if isinstance(found, list | tuple) else type(found).__name__
            raise StateError(f"The {where} must have {len(like)} entries, got {size}.")
        return type(like)(fitted(a, b, where) for a, b in zip(found, like, strict=True))
    if isinstance(like, Tensor):
        if not isinstance(found, Tensor) or found.shape != like.shape:
            shape = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise StateError(f"The {where} must be of shape {list(like.shape)}, got {shape}.")
        return found.detach().to(like.device, like.dtype, copy=True)
    if type(found) is not type(like) and not (isinstance(like, float) and type(found) is int):
        raise StateError(f"The {where} must be a {type(like).__name__}, got {found!r}.")
    return found


def copied(tree: Any) -> Any:
    """Copy a tree of dictionaries, lists, tuples and tensors, so that no two entries share memory."""
    if isinstance(tree, dict):
        return {name: copied(entry) for name, entry in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(copied(entry) for entry in tree)
    return tree.detach().clone() if isinstance(tree, Tensor) else tree


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]

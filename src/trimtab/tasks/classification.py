"""Loss and accuracy of a network that names a class, for one example or for every place of a sequence.

Letters: ``n`` examples, ``C`` classes.
"""

from __future__ import annotations

from torch import Tensor

from trimtab.task import Batch, Model


def cross_entropy(model: Model, batch: Batch) -> Tensor:
    """Give the mean cross-entropy, ``[]`` nats, unbatched over members.

    Args:
        model: gives logits ``[n, ..., C]``.
        batch: `y` is ``[n, ...]`` int64, the classes.

    Returns:
        ``[]`` nats; equal to ``torch.nn.functional.cross_entropy``.
    """
    logits = answer(model, batch)
    # For 64 members on a CPU a step of digits-mlp takes 1.2 ms in this form, 1.7 ms with `cross_entropy`.
    chosen = logits.gather(-1, batch.y.unsqueeze(-1)).squeeze(-1)
    return (logits.logsumexp(-1) - chosen).mean()


def accuracy(model: Model, batch: Batch) -> Tensor:
    """Give the share of classes named rightly, ``[]`` in 0..1, unbatched over members."""
    logits = answer(model, batch)
    return (logits.argmax(-1) == batch.y).to(logits.dtype).mean()


def answer(model: Model, batch: Batch) -> Tensor:
    """Run the network, with the batch's noise where there is some: ``[n, ..., C]``."""
    return model(batch.x) if batch.noise is None else model(batch.x, batch.noise)

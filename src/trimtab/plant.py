"""Plant: the simulated end. ``B`` independent copies of one task in one program.

Parameters of all members live in one ``[B, n]`` buffer, ordered site by site. The forward pass is vmapped over leaf
views of it; since members are independent, the gradient of the summed loss is every member's own, so the backward pass
is plain autograd, without vmap's cost. Rules that work coordinate by coordinate then update the whole buffer at once.

With ``fast=True`` one step is traced to its tensor operations and compiled; the first call takes about half a minute.
With ``differentiable=True`` members and losses carry a graph back to the knobs' values; what readings measure does not.

Letters: ``B`` members, ``S`` sites, ``K`` knobs, ``n`` parameters of a member, ``m`` sampled coordinates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, vmap

from trimtab.compiled import compiled
from trimtab.copies import Copies, Look, select
from trimtab.errors import TaskError
from trimtab.features import Features
from trimtab.hypergrad import Estimator
from trimtab.hypergrad.estimator import factors_in
from trimtab.hypergrad.simulated import Simulated
from trimtab.knobs import Panel
from trimtab.layout import Layout
from trimtab.probe import SAMPLE, STATISTICS, Probe
from trimtab.rules import Rule, Slots, Values
from trimtab.signals import is_reading
from trimtab.task import Batch, Model, Split, Task

Tensors = dict[str, Tensor]
Examples = tuple[Tensor, Tensor]
HELD_OUT = 512  # validation examples at most that a hypergradient is measured on


class Plant:
    """Trains ``B`` members of a task under a rule, one step at a time.

    Args:
        task: the problem.
        rule: the optimizer's twin.
        panel: the knobs; hyperparameters without a knob keep the rule's defaults.
        sites: for each site its parameters' names; None: one site of all. See :func:`trimtab.sites.sites_of`.
        every: steps between readings.
        estimator: makes readings carry its hypergradient (:func:`trimtab.hypergrad.estimator_of` a controller).
        held_out: examples that a hypergradient of the validation loss is of, the network in evaluation mode, or what
            gives them for a step's number; None: the first half of the validation split, 512 at most.
        fast: compile the step.
        differentiable: keep the graph of every step (second derivatives of the loss included) until it is let go.
        device: where members live.
        dtype: of parameters and data.
        sample: the most coordinates measured of a site.

    Raises:
        TaskError: a knob is unknown to rule and loss, one of the loss's is to be turned site by site, the rule cannot
            train one of the parameters, the sites do not hold every parameter once, or the step is to be both compiled
            and differentiable.
    """

    def __init__(
        self,
        task: Task,
        rule: Rule,
        panel: Panel,
        *,
        sites: Sequence[Sequence[str]] | None = None,
        every: int = 10,
        estimator: Estimator | None = None,
        held_out: Examples | Callable[[int], Examples] | None = None,
        fast: bool = False,
        differentiable: bool = False,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        sample: int = SAMPLE,
    ) -> None:
        self.task, self.rule, self.panel, self.every = task, rule, panel, every
        self.device, self.dtype, self._fast = torch.device(device), dtype, fast
        self._differentiable = differentiable
        self._held_out = held_out
        self.module = task.build(0).to(self.device, dtype)
        self._of_loss = tuple(name for name in panel.names if name in getattr(task, "loss_knobs", ()))
        unknown = [name for name in panel.names if name not in rule.defaults and name not in self._of_loss]
        if unknown:
            raise TaskError(f"Rule {rule.name!r} has no hyperparameters {unknown}, only {sorted(rule.defaults)}.")
        if self._of_loss and sites is not None and len(sites) > 1:
            raise TaskError(f"Knobs of the loss, {list(self._of_loss)}, turn the whole run: give one site.")
        if fast and differentiable:
            raise TaskError("A compiled step keeps no graph: make the plant either `fast` or `differentiable`.")
        shapes = {name: p.shape for name, p in self.module.named_parameters()}
        vectors = [name for name, shape in shapes.items() if len(shape) != 2]
        if rule.name == "muon" and vectors:
            raise TaskError(f"Rule 'muon' trains matrices only; {task.name} has {vectors}, which are none.")
        self.sites = tuple(tuple(site) for site in (sites if sites is not None else [list(shapes)]))
        self._layout = Layout(shapes, self.sites, joined=rule.elementwise)
        self._hypergrad: Simulated | None = None
        if estimator is not None:
            self._hypergrad = Simulated(
                estimator,
                rule,
                self._layout,
                panel=panel,
                every=every,
                of_loss=self._of_loss,
                losses=lambda leaves, buffers, batch, own: self._losses(leaves, buffers, batch, _axes(batch), own),
                held_out=self._held_out_grad,
                held_out_loss=self._held_out_loss,
            )
        self._probe = Probe(self._layout.per_site, self.device, sample)
        self._step_fn: Callable[..., Any] = self._step
        self._values_of: tuple[Tensor, list[Values]] | None = None

    def start(self, seeds: Sequence[int]) -> Copies:
        """Build the members.

        Args:
            seeds: one a member; member ``b`` begins with the weights of ``task.build(seeds[b])``.

        Returns:
            Their state before the first step.
        """
        modules = [self.task.build(seed) for seed in seeds]
        rows = [self._layout.flat({name: p.detach() for name, p in m.named_parameters()}) for m in modules]
        weights = torch.stack(rows).to(self.device, self.dtype)
        buffers = {
            name: torch.stack([dict(module.named_buffers())[name] for module in modules]).to(self.device)
            for name, _ in self.module.named_buffers()
        }
        buffers = {name: b.to(self.dtype) if b.is_floating_point() else b for name, b in buffers.items()}
        return Copies(weights, tuple(self.rule.start(part) for part in self._layout.cut(weights)), buffers)

    def step(
        self, copies: Copies, values: Tensor, batch: Batch, number: int, look: Look | None
    ) -> tuple[Copies, Tensor, Look | None, Tensors | None]:
        """Take optimizer step `number`.

        Args:
            copies: the members before it.
            values: ``[B, S, K]`` knob values.
            batch: each member's examples.
            number: the step, from 1.
            look: what the last step left for a reading.

        Returns:
            The members after it; ``[B]`` losses at the weights before it; what it leaves for a reading; and, at a
            reading, the statistics by name, ``[B, S]`` each (``hypergrad`` ``[B, S, K]``).
        """
        parts = self._by_part(values)
        if self._fast and self._step_fn == self._step:
            self._step_fn = compiled(self._step, (copies, parts, batch))
        weights, slots, buffers, losses, grad = self._step_fn(
            copies.weights, copies.slots, copies.buffers, parts, tuple(batch) if self._fast else batch
        )
        factors = None if look is None else factors_in(look.memory)
        if factors is not None:
            weights = torch.lerp(copies.weights, weights, factors)
        after = Copies(weights, slots, buffers)
        reading = None
        with torch.no_grad():
            if is_reading(number, self.every):
                look, reading = self._read(copies, grad, look)
            if is_reading(number + 1, self.every):
                look = self._look(copies, grad, look)
        if self._hypergrad is not None and look is not None:
            used = values.to(self.device)
            look = replace(look, memory=self._hypergrad.follow(look.memory, number, copies, after, used, grad, batch))
        return after, losses, look, reading

    def features(self) -> Features:
        """Give the features for these sites: relative depth by order, share by size."""
        sizes = [b - a for a, b in self._layout.bounds]
        depth = [i / max(1, len(sizes) - 1) if len(sizes) > 1 else 0.5 for i in range(len(sizes))]
        return Features(self.panel, tuple(depth), tuple(size / sum(sizes) for size in sizes))

    def split(self, split: Split) -> Examples:
        """Give a whole split on the plant's device, in its dtype."""
        return self._placed(self.task.data(split))

    def select(self, mask: Tensor, yes: Copies, no: Copies) -> Copies:
        """Choose member by member between two states; `mask` is ``[B]`` bool."""
        return Copies(*(select(mask, mine, vars(no)[name]) for name, mine in vars(yes).items()))

    def forget(self, mask: Tensor, copies: Copies, look: Look | None) -> Look | None:
        """Let the estimator begin anew for members ``[B]`` bool that were put elsewhere."""
        if self._hypergrad is None or look is None or look.memory is None:
            return look
        return replace(look, memory=self._hypergrad.forget(mask, copies, look.memory))

    def evaluate(self, copies: Copies, data: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Give ``[B]`` mean losses and metrics over one set of examples, in evaluation mode, at averages where kept."""
        batch = Batch(*data)
        found = self._evaluated(copies, lambda model: (self.task.loss(model, batch), self.task.score(model, batch)))
        return found[0], found[1]

    def loss_on(self, copies: Copies, data: tuple[Tensor, Tensor]) -> Tensor:
        """Give the first half of `evaluate`, at half its price: a metric is another forward pass."""
        return self._evaluated(copies, lambda model: (self.task.loss(model, Batch(*data)),))[0]

    def _evaluated(self, copies: Copies, measure: Callable[[Model], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        def one(params: Tensors, buffers: Tensors) -> tuple[Tensor, ...]:
            return measure(self._model(params, buffers))

        copies = copies.averaged()
        self.module.eval()
        with torch.set_grad_enabled(self._differentiable):
            found: tuple[Tensor, ...] = vmap(one)(self._layout.leaves(copies.weights), copies.buffers)
        self.module.train()
        return found

    def _by_part(self, values: Tensor) -> list[Values]:
        """Bring values to the parts' form; kept while they are the same tensor, for they change at decisions only."""
        if self._values_of is None or self._values_of[0] is not values:
            self._values_of = (values, self._layout.values(values.to(self.device), self.panel.names))
        return self._values_of[1]

    def _step(
        self, weights: Tensor, slots: tuple[Slots, ...], buffers: Tensors, values: list[Values], batch: Batch
    ) -> tuple[Tensor, tuple[Slots, ...], Tensors, Tensor, Tensor]:
        buffers = {name: b.clone() for name, b in buffers.items()}
        own = {name: values[0][name].reshape(-1).to(self.dtype) for name in self._of_loss}
        losses, grad = self._differentiate(weights, buffers, batch, _axes(batch), own)
        with torch.set_grad_enabled(self._differentiable):
            parts = zip(self._layout.cut(grad), slots, self._layout.cut(weights), values, strict=True)
            done = [self.rule.update(g, s, w, v) for g, s, w, v in parts]
            new = torch.cat([w.flatten(1) for w, _ in done], 1) if len(done) > 1 else done[0][0].flatten(1)
        return new, tuple(s for _, s in done), buffers, losses, grad

    def _differentiate(
        self, weights: Tensor, buffers: Tensors, batch: Batch, axes: Batch | None, own: Tensors
    ) -> tuple[Tensor, Tensor]:
        """Give ``[B]`` losses and their ``[B, n]`` gradient; axes None: all members see the same examples."""
        keep = self._differentiable and weights.requires_grad  # a first step's weights depend on no knob
        leaves = self._layout.leaves(weights)
        leaves = leaves if keep else {name: leaf.detach().requires_grad_() for name, leaf in leaves.items()}

        with torch.enable_grad():
            losses = self._losses(leaves, buffers, batch, axes, own)
            grads = torch.autograd.grad(losses.sum(), list(leaves.values()), create_graph=keep)
            grad = torch.cat([g.flatten(1) for g in grads], 1)
        return (losses, grad) if keep else (losses.detach(), grad.detach())

    def _losses(self, leaves: Tensors, buffers: Tensors, batch: Batch, axes: Batch | None, own: Tensors) -> Tensor:
        def one(params: Tensors, buffers: Tensors, batch: Batch, own: Tensors) -> Tensor:
            return self.task.loss(self._model(params, buffers), batch, **own)

        return vmap(one, in_dims=(0, 0, axes, 0))(leaves, buffers, batch, own)

    def _model(self, params: Tensors, buffers: Tensors) -> Callable[..., Tensor]:
        return lambda *args: functional_call(self.module, (params, buffers), args)

    def _held_out_grad(self, weights: Tensor, buffers: Tensors, number: int) -> Tensor:
        """``[B, n]`` gradient of the loss on a step's held-out examples."""
        self.module.eval()
        grad = self._differentiate(weights.detach(), buffers, Batch(*self._held_out_data(number)), None, {})[1]
        self.module.train()
        return grad

    def _held_out_loss(self, weights: Tensor, buffers: Tensors, number: int) -> Tensor:
        """``[B]`` losses on a step's held-out examples."""
        return self.loss_on(Copies(weights.detach(), (), buffers), self._held_out_data(number)).detach()

    def _held_out_data(self, number: int) -> Examples:
        if callable(self._held_out):
            return self._placed(self._held_out(number))
        if self._held_out is None:
            x, y = (part[: min(len(part) // 2, HELD_OUT)] for part in self.split("val"))
            self._held_out = x, y
        return self._held_out

    def _placed(self, examples: Examples) -> Examples:
        x, y = (part.to(self.device, self.dtype if part.is_floating_point() else part.dtype) for part in examples)
        return x, y

    def _look(self, copies: Copies, grad: Tensor, look: Look | None) -> Look:
        weight = self._sample(copies.weights)
        first, memory = (weight, None) if look is None else (look.first, look.memory)
        return Look(weight, self._sample(grad), first, memory)

    def _read(self, copies: Copies, grad: Tensor, look: Look | None) -> tuple[Look, Tensors]:
        weight, sampled = self._sample(copies.weights), self._sample(grad)
        if look is None:
            look = Look(weight, torch.zeros_like(sampled), weight)
        measured = self._probe.measure(weight, sampled, look.weight, look.grad, look.first)
        reading = dict(zip(STATISTICS, measured.unbind(1), strict=True))
        if self._hypergrad is not None:
            reading["hypergrad"] = self._hypergrad.read(look.memory, grad)
        return look, reading

    def _sample(self, flat: Tensor) -> Tensor:
        return self._probe.sample(self._layout.pieces(flat))


def _axes(batch: Batch) -> Any:
    """Give vmap's axis of each part of a batch."""
    return type(batch)(*(None if part is None else 0 for part in batch))  # type: ignore[arg-type]

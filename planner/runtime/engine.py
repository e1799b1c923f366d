"""One rank's training step: the operations of its schedule, the reduction, the update."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from costmodels.interleaved import Order
from planner.runtime.build import Frame
from planner.runtime.chunks import Chunk
from planner.runtime.clock import Clock
from planner.runtime.comm import Group, all_reduce
from planner.runtime.data import Data
from planner.runtime.model import State
from planner.runtime.rows import global_rows, micro_batch_rows, replica_rows, rows_in
from planner.runtime.update import Updater
from planner.runtime.weights import Weights


@dataclass
class Engine:
    """What one rank needs to run steps."""

    frame: Frame
    order: Order
    chunks: Sequence[Chunk]
    weights: Weights
    updater: Updater
    world: Group
    clock: Clock
    losses: dict[int, Tensor] = field(default_factory=dict)
    reported: list[tuple[Tensor, Tensor | int]] = field(default_factory=list)

    def gradients(self, data: Data, step: int) -> float:
        """Forward and backward of all micro-batches, then the reduction.

        Returns the mean loss per term over the global batch. Gradients are those of that mean.
        """
        self.reported.clear()
        self._expect()
        for op in self.order:
            if self._my_rows(op.micro_batch) is None:
                continue
            if op.kind == "F":
                self._forward(op.chunk, op.micro_batch, data, step)
            else:
                self._backward(op.chunk, op.micro_batch)
        with self.clock.part("wait"):
            self.frame.wires.drain()
            summed, terms = self._total()
        if terms and terms != self._nominal():
            # Terms were left out: the mean is over fewer than was known beforehand.
            self.weights.scale_gradients(self._nominal() / terms)
        with self.clock.part("reduce"):
            self.updater.reduce()
        return float(summed / terms) if terms else 0.0

    def step(self, data: Data, step: int) -> float:
        """One training step; returns the mean loss of its batch before the update."""
        loss = self.gradients(data, step)
        with self.clock.part("update"):
            self.updater.step()
        return loss

    def evaluate(self, data: Data, step: int) -> float:
        """The mean loss of a batch, without gradients. All stages run forwards only."""
        self.reported.clear()
        self._expect(gradients=False)
        with torch.no_grad():
            for op in self.order:
                if op.kind == "F" and self._my_rows(op.micro_batch) is not None:
                    self._forward(op.chunk, op.micro_batch, data, step)
                    self.chunks[op.chunk].kept.pop(op.micro_batch)
        self.losses.clear()
        self.frame.wires.drain()
        summed, terms = self._total()
        return float(summed / terms) if terms else 0.0

    def _forward(self, number: int, micro_batch: int, data: Data, step: int) -> None:
        chunk = self.chunks[number]
        inputs: State
        if chunk.arriving is None:
            inputs = (self._rows(micro_batch, data, step)[0],)
        else:
            with self.clock.part("wait"):
                inputs = chunk.arriving.receive(micro_batch)
        with self.clock.part("forward"):
            outputs = chunk.forward(micro_batch, inputs)
            if self._last(number):
                self._lose(micro_batch, outputs, data, step)

    def _lose(self, micro_batch: int, outputs: State, data: Data, step: int) -> None:
        """The loss of what the last layer put out."""
        targets = self._rows(micro_batch, data, step)[1]
        summed, terms = self.frame.model.loss(outputs, targets, self.frame.region)
        self.losses[micro_batch] = summed / self._nominal()
        if self.frame.region.shard == 0:
            self.reported.append((summed.detach(), terms))

    def _total(self) -> tuple[float, float]:
        """Summed loss and number of its terms over the global batch.

        Read from the device here, once per step: reading after every micro-batch would make the
        process wait for the device, and the device for the next micro-batch's kernels.
        """
        total = torch.zeros(2, dtype=torch.float64)
        for summed, terms in self.reported:
            total[0] += summed.double().cpu()
            total[1] += int(terms)
        all_reduce(total, self.world)
        summed, terms = total.tolist()
        return summed, terms

    def _backward(self, number: int, micro_batch: int) -> None:
        chunk = self.chunks[number]
        loss = self.losses.pop(micro_batch) if self._last(number) else None
        with self.clock.part("wait"):
            given = chunk.await_gradients(micro_batch) if loss is None else ()
        with self.clock.part("backward"):
            chunk.backward(micro_batch, loss, given)

    def _expect(self, *, gradients: bool = True) -> None:
        """Tell every channel which micro-batches will come, in order."""
        coming: dict[int, list[int]] = {}
        for op in self.order:
            if self._my_rows(op.micro_batch) is None:
                continue
            chunk = self.chunks[op.chunk]
            channel = chunk.arriving if op.kind == "F" else chunk.gradients_in
            if channel is not None and (gradients or op.kind == "F"):
                coming.setdefault(id(channel), []).append(op.micro_batch)
        for chunk in self.chunks:
            for channel in chunk.channels:
                channel.plan_step(coming.get(id(channel), ()))

    def _my_rows(self, micro_batch: int) -> tuple[int, int] | None:
        """Rows of the global batch that this replica runs; None where it has none."""
        seat, plan = self.frame.seat, self.frame.plan
        rows = rows_in(self.frame.pipeline, micro_batch)
        first, end = replica_rows(self.frame.stage, rows)[seat.replica]
        if first == end:
            return None
        begin = micro_batch_rows(plan, seat.pipeline, micro_batch)[0]
        return begin + first, begin + end

    def _rows(self, micro_batch: int, data: Data, step: int) -> tuple[Tensor, Tensor]:
        found = self._my_rows(micro_batch)
        if found is None:
            raise RuntimeError(f"no rows in micro-batch {micro_batch}")
        inputs, targets = data.rows(step, *found)
        device = self.frame.device
        return inputs.to(device), targets.to(device)

    def _last(self, number: int) -> bool:
        return self.chunks[number].leaving is None

    def _nominal(self) -> float:
        """What the loss is divided by before it is known how many terms there are."""
        return float(global_rows(self.frame.plan) * self.frame.seq_len)

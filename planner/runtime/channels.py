"""One direction of one boundary between chunks, as one rank sees it.

A micro-batch at a boundary is cut into boxes of rows and sequence. Members of a tensor-parallel
group that each keep their part of the sequence send and receive their own boxes. Where all members
hold the same, the first one sends and receives for all, and what came is broadcast in the group.
What goes from a rank to another is the meeting of what the one holds with what the other wants, so
replicas may share the rows differently on the two sides.

What a boundary carries (how many tensors, their types and sizes per row) is told by the senders
with their first message.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from planner.runtime.comm import broadcast
from planner.runtime.model import State
from planner.runtime.regions import Region
from planner.runtime.rows import Box, Transfer, transfers
from planner.runtime.wires import Arrival, Wires

HEADER = 64
"""int64 values of a first message: number of tensors, then type, axes and sizes of each."""

AHEAD = 2
"""Receives that are started before they are needed."""

DTYPES = (
    torch.float32,
    torch.float64,
    torch.bfloat16,
    torch.float16,
    torch.int64,
    torch.int32,
    torch.bool,
    torch.uint8,
)

Holding = tuple[int, Box]
"""A rank, and what it holds or wants of a micro-batch."""

Signature = tuple[tuple[torch.dtype, tuple[int, ...]], ...]
"""Type and sizes of each tensor, without the rows, for the whole sequence."""


@dataclass(frozen=True)
class Side:
    """The ranks on one side of a boundary: what each holds of a micro-batch of so many rows.

    ``length`` is that of the whole sequence in the unit of the boxes.
    """

    holdings: Callable[[int], tuple[Holding, ...]]
    length: int

    def box(self, rank: int, rows: int) -> Box | None:
        """What a rank holds; None where another member holds it for all."""
        return next((box for holder, box in self.holdings(rows) if holder == rank), None)


@dataclass
class Channel:
    """Sends or receives the state of micro-batches, in the order of the schedule.

    ``tag`` is the first of ``2 * micro_batches`` tags of its own. ``gradients`` leaves out tensors
    that have none. ``region`` is that of this rank.
    """

    wires: Wires
    purpose: str
    tag: int
    rank: int
    senders: Side
    receivers: Side
    rows: Callable[[int], int]
    region: Region
    gradients: bool = False
    signature: Signature | None = None
    told: set[int] = field(default_factory=set)
    headers: list[Arrival] = field(default_factory=list)
    waiting: dict[int, list[tuple[Transfer, list[Arrival]]]] = field(default_factory=dict)
    at_hand: dict[int, State] = field(default_factory=dict)
    shared: bool = False
    upcoming: deque[int] = field(default_factory=deque)

    def plan_step(self, micro_batches: Sequence[int]) -> None:
        """The micro-batches that will be received in this step, in order."""
        self.upcoming = deque(micro_batches)
        self._start_ahead()

    def send(self, micro_batch: int, state: State) -> None:
        """Send this rank's part. The first state sent tells what the boundary carries."""
        rows = self.rows(micro_batch)
        if self.signature is None:
            self.signature = self._signature_of(state)
        own = self.senders.box(self.rank, rows)
        if own is None:
            return
        for transfer in self._moves(rows):
            if transfer.sender != self.rank:
                continue
            parts = tuple(_cut(t, own, transfer.box) for t in state)
            if transfer.receiver == self.rank:
                self.at_hand[micro_batch] = parts
                continue
            self._tell(transfer.receiver)
            for part in parts:
                self.wires.send(part, transfer.receiver, self.tag + micro_batch, self.purpose)

    def receive(self, micro_batch: int) -> State:
        """This rank's part; for members of a group that hold the same, all of it."""
        rows = self.rows(micro_batch)
        own = self.receivers.box(self.rank, rows)
        state = self._collect(micro_batch, own) if own is not None else ()
        if self.region.shards > 1 and not self._split():
            state = self._share(state, micro_batch)
        return state

    def _collect(self, micro_batch: int, own: Box) -> State:
        rows = self.rows(micro_batch)
        self._start(micro_batch)
        if self.upcoming and self.upcoming[0] == micro_batch:
            self.upcoming.popleft()
        pieces = [
            (transfer, [arrival.wait() for arrival in arrivals])
            for transfer, arrivals in self.waiting.pop(micro_batch)
        ]
        for header in self.headers:
            header.wait()
        self.headers = []
        kept = self.at_hand.pop(micro_batch, None)
        if kept is not None:
            local = next(t for t in self._moves(rows) if t.sender == t.receiver == self.rank)
            pieces.append((local, list(kept)))
        self._start_ahead()
        if len(pieces) == 1 and pieces[0][0].box == own:
            return tuple(pieces[0][1])
        return self._assemble(own, pieces)

    def _assemble(self, own: Box, pieces: list[tuple[Transfer, list[Tensor]]]) -> State:
        out = []
        for k, (dtype, sizes) in enumerate(self._known()):
            shape = _shape(own, sizes, self.receivers.length)
            full = torch.empty(shape, dtype=dtype, device=self.wires.device)
            for transfer, tensors in pieces:
                _cut(full, own, transfer.box).copy_(tensors[k])
            out.append(full)
        return tuple(out)

    def _start(self, micro_batch: int) -> None:
        if micro_batch in self.waiting:
            return
        incoming = [
            t
            for t in self._moves(self.rows(micro_batch))
            if t.receiver == self.rank and t.sender != self.rank
        ]
        self._listen(incoming)
        self.waiting[micro_batch] = [
            (
                t,
                [
                    self.wires.receive(
                        _shape(t.box, sizes, self.receivers.length),
                        dtype,
                        t.sender,
                        self.tag + micro_batch,
                        self.purpose,
                    )
                    for dtype, sizes in self._known()
                ],
            )
            for t in incoming
        ]

    def _start_ahead(self) -> None:
        """Receives of the next micro-batches, once it is known what they carry."""
        for micro_batch in list(self.upcoming)[:AHEAD]:
            rows = self.rows(micro_batch)
            if self.signature is None or self.receivers.box(self.rank, rows) is None:
                return
            moves = [t for t in self._moves(rows) if t.receiver == self.rank]
            if all(t.sender == self.rank or self.wires.eager(t.sender) for t in moves):
                self._start(micro_batch)

    def _tell(self, receiver: int) -> None:
        """The signature, before the first message to a receiver."""
        if receiver in self.told or self.gradients:
            return
        self.told.add(receiver)
        header = _encode(self._known())
        self.wires.send(header.to(self.wires.device), receiver, self._header_tag, self.purpose)

    def _listen(self, incoming: Sequence[Transfer]) -> None:
        """Every sender tells its signature before its first message; all tell the same."""
        for transfer in incoming:
            if transfer.sender in self.told or self.gradients:
                continue
            self.told.add(transfer.sender)
            header = self.wires.receive(
                (HEADER,), torch.int64, transfer.sender, self._header_tag, self.purpose
            )
            if self.signature is None:
                self.signature = _decode(header.wait())
            else:  # nothing new, and waiting for it now could hold up others
                self.headers.append(header)

    def _share(self, state: State, micro_batch: int) -> State:
        """From the first member of the group to the others."""
        rows = self.rows(micro_batch)
        if not self.gradients and not self.shared:
            self.shared = True
            empty = torch.zeros(HEADER, dtype=torch.int64)
            header = empty if self.signature is None else _encode(self.signature)
            header = header.to(self.wires.device)
            broadcast(header, self.region.group)
            self.signature = _decode(header)
        if not state:
            leader = self.receivers.box(self.region.group.ranks[0], rows)
            if leader is None:
                raise RuntimeError(f"{self.purpose}: nobody receives micro-batch {micro_batch}")
            state = tuple(
                torch.empty(
                    _shape(leader, sizes, self.receivers.length),
                    dtype=dtype,
                    device=self.wires.device,
                )
                for dtype, sizes in self._known()
            )
        for tensor in state:
            broadcast(tensor, self.region.group)
        return state

    def _moves(self, rows: int) -> tuple[Transfer, ...]:
        return transfers(self.senders.holdings(rows), self.receivers.holdings(rows))

    def _split(self) -> bool:
        return self.region.split_sequence

    def _known(self) -> Signature:
        if self.signature is None:
            raise RuntimeError(f"{self.purpose}: used before it is known what it carries")
        return self.signature

    @property
    def _header_tag(self) -> int:
        return self.tag - 1

    def _signature_of(self, state: State) -> Signature:
        parts = self.region.shards if self._split() else 1
        return tuple(
            (t.dtype, (t.shape[1] * parts, *t.shape[2:]) if parts > 1 else tuple(t.shape[1:]))
            for t in state
        )


def floats(signature: Signature) -> Signature:
    """The tensors that have gradients."""
    return tuple((dtype, sizes) for dtype, sizes in signature if dtype.is_floating_point)


def _cut(tensor: Tensor, own: Box, part: Box) -> Tensor:
    """A view of the part of what a rank holds."""
    view = tensor.narrow(0, part.row0 - own.row0, part.row1 - part.row0)
    if (part.seq0, part.seq1) == (own.seq0, own.seq1):
        return view
    return view.narrow(1, part.seq0 - own.seq0, part.seq1 - part.seq0)


def _shape(box: Box, sizes: tuple[int, ...], length: int) -> tuple[int, ...]:
    rows = box.row1 - box.row0
    if box.seq1 - box.seq0 == length:
        return (rows, *sizes)
    return (rows, sizes[0] * (box.seq1 - box.seq0) // length, *sizes[1:])


def _encode(signature: Signature) -> Tensor:
    values = [len(signature)]
    for dtype, sizes in signature:
        values += [DTYPES.index(dtype), len(sizes), *sizes]
    if len(values) > HEADER:
        raise ValueError("a layer hands on more tensors than a boundary can describe")
    return torch.tensor(values + [0] * (HEADER - len(values)), dtype=torch.int64)


def _decode(header: Tensor) -> Signature:
    values = header.tolist()
    found, at = [], 1
    for _ in range(values[0]):
        axes = values[at + 1]
        found.append((DTYPES[values[at]], tuple(values[at + 2 : at + 2 + axes])))
        at += 2 + axes
    return tuple(found)

"""Measured layer times and memory that stand in for the formulas, and how gaps are filled.

A profile holds, for one chip and model, what every layer took at some tensor-parallel degrees and
micro-batch rows. Between measurements it interpolates by declared rules; beyond them it says what
is missing instead of guessing:

- *rows between two measured ones*: times and bytes are linear in the rows;
- *a degree between two measured ones*: a power law between the neighbours, at the same rows;
- *fewer or more rows, a smaller or larger degree than measured*: nothing (:meth:`problem`);
- *a time above that of a larger micro-batch*: the larger one's. More rows never take less time, and
  what disturbs a timing only lengthens it, so the lower figure is the better one.

A measured time holds everything that the runtime did in the layer: tensor-parallel communication,
launches, waiting for the host. What a profile cannot say comes from the formulas, scaled to what
was measured (:func:`measured_price`).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from costmodels.price import LayerPrice


@dataclass(frozen=True, slots=True)
class Measurement:
    """One layer on one device of its group: seconds and bytes of one micro-batch.

    ``update_s`` is the layer's own share of the optimizer step. ``activation_bytes`` stay allocated
    from forward to backward without recomputation; ``parameter_bytes`` are one device's weights.
    """

    forward_s: float
    backward_s: float
    update_s: float
    activation_bytes: int
    parameter_bytes: int


_Between = Callable[[float, float], float]

Layers = tuple[Measurement, ...]
"""All layers of the model in order, at one degree and one number of rows."""


@dataclass(frozen=True, eq=False)
class LayerProfile:
    """What was measured on one chip: ``points[tp][rows]``, both in ascending order.

    ``element_bytes`` is the size of a weight when it was measured. ``lowered`` lists the
    ``(tp, rows)`` at which some time was replaced by that of a larger micro-batch.
    """

    chip: str
    element_bytes: int
    points: Mapping[int, Mapping[int, Layers]]
    lowered: tuple[tuple[int, int], ...] = ()

    def problem(self, tp: int, rows: int) -> str | None:
        """Why this way of running the layers is not covered; None where it is."""
        degrees = list(self.points)
        if not degrees[0] <= tp <= degrees[-1]:
            return f"tp={tp} was not measured on {self.chip} ({_span(degrees)} were)"
        for degree in _around(degrees, tp):
            known = list(self.points[degree])
            if not known[0] <= rows <= known[-1]:
                return (
                    f"{rows} rows per micro-batch at tp={degree} were not measured on {self.chip} "
                    f"({_span(known)} were)"
                )
        return None

    def interpolated(self, tp: int, rows: int) -> bool:
        """Whether these figures lie between measured ones."""
        return any(rows not in self.points[t] for t in _around(list(self.points), tp)) or (
            tp not in self.points
        )

    def measurement(self, layer: int, tp: int, rows: int) -> Measurement:
        """One layer's figures. LookupError where :meth:`problem` names a gap."""
        gap = self.problem(tp, rows)
        if gap is not None:
            raise LookupError(gap)
        degrees = _around(list(self.points), tp)
        found = [self._at(layer, degree, rows) for degree in degrees]
        if len(found) == 1:
            return found[0]
        low, high = degrees
        return _power(found[0], found[1], math.log(tp / low) / math.log(high / low))

    def price(
        self, layer: int, tp: int, rows: int, formula: LayerPrice, derate: float
    ) -> LayerPrice:
        """What a layer costs: measured where something was, by the formula's shares elsewhere.

        ``formula`` is the layer's price by the formulas at the same degree, rows and ``derate``
        (the chip's speed over that of the measured one). LookupError as in :meth:`measurement`.
        """
        found = self.measurement(layer, tp, rows)
        return slowed(measured_price(formula, found, self.element_bytes), derate)

    def _at(self, layer: int, tp: int, rows: int) -> Measurement:
        points = self.points[tp]
        around = _around(list(points), rows)
        found = [points[r][layer] for r in around]
        if len(found) == 1:
            return found[0]
        low, high = around
        return _linear(found[0], found[1], (rows - low) / (high - low))


def layer_profile(
    chip: str, element_bytes: int, points: Mapping[tuple[int, int], Sequence[Measurement]]
) -> LayerProfile:
    """Profile from ``points[tp, rows]``; times that fall as rows grow are lowered (see above).

    ValueError without points or with unequal numbers of layers.
    """
    if len({len(layers) for layers in points.values()}) != 1:
        raise ValueError("a profile needs points, all of them with the same layers")
    ordered: dict[int, dict[int, Layers]] = {}
    lowered: list[tuple[int, int]] = []
    for tp in sorted({tp for tp, _ in points}):
        after: Layers | None = None
        found: dict[int, Layers] = {}
        for rows in sorted((r for t, r in points if t == tp), reverse=True):
            layers = tuple(points[tp, rows])
            if after is not None:
                layers = tuple(map(_no_longer, layers, after))
            if layers != tuple(points[tp, rows]):
                lowered.append((tp, rows))
            found[rows] = after = layers
        ordered[tp] = dict(sorted(found.items()))
    return LayerProfile(chip, element_bytes, ordered, tuple(sorted(lowered)))


def measured_price(formula: LayerPrice, measured: Measurement, element_bytes: int) -> LayerPrice:
    """The formula's price with what was measured put in its place, before any derating.

    Tensor-parallel communication is inside the measured times. The backward pass divides between
    input and weight gradients as in the formula. Full recomputation runs the measured forward
    again; selective recomputation takes and saves the same shares as in the formula. What a layer
    needs on top while it runs backward is the formula's, so is what the logits take then beyond
    what of them was measured as kept.
    """
    computed = formula.backward_input_s + formula.backward_weight_s
    share = formula.backward_input_s / computed if computed > 0 else 1.0
    forward = formula.forward_s + formula.tp_comm_forward_s
    again = measured.forward_s / forward if forward > 0 else 1.0
    kept = _kept(formula, measured.activation_bytes)
    extra = measured.activation_bytes - formula.activation_bytes[0]
    return formula._replace(
        forward_s=measured.forward_s,
        backward_input_s=measured.backward_s * share,
        backward_weight_s=measured.backward_s * (1.0 - share),
        tp_comm_forward_s=0.0,
        tp_comm_backward_s=0.0,
        recompute_s=(
            0.0,
            formula.recompute_s[1] * again,
            measured.forward_s if formula.recompute_s[2] > 0 else 0.0,
        ),
        parameters=-(-measured.parameter_bytes // element_bytes),
        activation_bytes=kept,
        working_bytes=(
            formula.working_bytes[0],
            formula.working_bytes[1],
            max(0, formula.working_bytes[2] + extra)
            if formula.activation_bytes[2] != formula.activation_bytes[0]
            else formula.working_bytes[2],
        ),
        logits_bytes=max(0, formula.logits_bytes - max(0, extra)),
        items=tuple(
            (name, seconds)
            for name, seconds in (
                ("measured forward", measured.forward_s),
                ("measured backward", measured.backward_s),
            )
            if seconds > 0
        ),
    )


def slowed(price: LayerPrice, derate: float) -> LayerPrice:
    """A price on chips that run at ``derate`` of the measured speed."""
    if derate == 1.0:
        return price
    return price._replace(
        forward_s=price.forward_s / derate,
        backward_input_s=price.backward_input_s / derate,
        backward_weight_s=price.backward_weight_s / derate,
        recompute_s=(
            price.recompute_s[0] / derate,
            price.recompute_s[1] / derate,
            price.recompute_s[2] / derate,
        ),
        items=tuple((name, seconds / derate) for name, seconds in price.items),
    )


def _kept(formula: LayerPrice, measured: int) -> tuple[int, int, int]:
    none, selective, full = formula.activation_bytes
    return (
        measured,
        measured if selective == none else -(-measured * selective // none),
        measured if full == none else min(measured, full),
    )


def _around(known: Sequence[int], value: int) -> tuple[int, ...]:
    """The measured neighbours of a value: itself, the two around it, or the nearest end."""
    at = bisect_left(known, value)
    if at < len(known) and known[at] == value:
        return (value,)
    return tuple(known[max(0, at - 1) : at + 1])


def _span(known: Sequence[int]) -> str:
    return f"{known[0]} to {known[-1]}" if len(known) > 1 else f"only {known[0]}"


def _no_longer(one: Measurement, larger: Measurement) -> Measurement:
    return replace(
        one,
        forward_s=min(one.forward_s, larger.forward_s),
        backward_s=min(one.backward_s, larger.backward_s),
    )


def _linear(low: Measurement, high: Measurement, at: float) -> Measurement:
    def between(a: float, b: float) -> float:
        return a + (b - a) * at

    return _between(low, high, between)


def _power(low: Measurement, high: Measurement, at: float) -> Measurement:
    def between(a: float, b: float) -> float:
        return float(a ** (1 - at) * b**at) if a > 0 and b > 0 else a + (b - a) * at

    return _between(low, high, between)


def _between(low: Measurement, high: Measurement, between: _Between) -> Measurement:
    return Measurement(
        between(low.forward_s, high.forward_s),
        between(low.backward_s, high.backward_s),
        between(low.update_s, high.update_s),
        math.ceil(between(low.activation_bytes, high.activation_bytes)),
        math.ceil(between(low.parameter_bytes, high.parameter_bytes)),
    )

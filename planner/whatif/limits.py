"""The largest of something that still has a plan: the model, the sequence, the micro-batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from planner.errors import InfeasibleError, InputError, Problem
from planner.graphs.model_graph import ModelGraph
from planner.inputs.document import JsonValue
from planner.inputs.hf_config import FORMAT
from planner.inputs.model import ModelInput, model_from_resolved
from planner.scenario.apply import apply_change
from planner.scenario.changes import SetField
from planner.scenario.inputs import PlanInputs
from planner.whatif.evaluator import Evaluator
from planner.whatif.outcome import Outcome

What = Literal["model", "seq_len", "micro_batch_rows"]
WHATS: tuple[What, ...] = ("model", "seq_len", "micro_batch_rows")

SEQ_STEP = 256
"""Tokens between the sequence lengths that are tried."""

PRECISION = 64
"""Sizes above this many steps are found to one part in so many."""

MOST = 2**20


@dataclass(frozen=True)
class Largest:
    """The largest size with a plan that was tried, and the next one tried, which has none.

    ``size`` counts tokens, rows, or (for models) parameters. ``above`` says why the next size has
    no plan, ``proven`` whether that was proven; where no next size was tried, ``above_text`` says
    why.
    """

    what: What
    size: int
    text: str
    outcome: Outcome
    above: Outcome | None
    above_text: str
    proven: bool


def largest(inputs: PlanInputs, what: What, evaluator: Evaluator) -> Largest:
    """Bisect the size of one input; everything else stays.

    ``model`` grows in depth and width together, as families do: whole heads of the same size, as
    many layers per width, the same vocabulary. Raises InfeasibleError where not even the smallest
    has a plan, InputError for a model whose shape is not known by its fields, and for what a
    profile holds at one size only.
    """
    if inputs.profile is not None and what != "micro_batch_rows":
        message = "the profile was measured at one size of it"
        remedy = "ask for micro_batch_rows, or leave the profile out"
        raise InputError([Problem(what, message, remedy)])
    make = _maker(inputs, what)
    low, low_outcome, high = _bracket(make, evaluator)
    while high - low > max(1, low // PRECISION):
        middle = (low + high) // 2
        outcome = _at(make, evaluator, middle)
        if outcome.status == "planned":
            low, low_outcome = middle, outcome
        else:
            high = middle
    above = _at(make, evaluator, high) if high <= make.most else None
    return Largest(
        what=what,
        size=make.size(low),
        text=make.text(low),
        outcome=low_outcome,
        above=above,
        above_text=make.text(high) if above is not None else make.limit,
        proven=above is not None and above.status in ("infeasible", "invalid"),
    )


@dataclass(frozen=True)
class _Maker:
    """How a number becomes inputs, a size and a text."""

    inputs: Callable[[int], PlanInputs]
    size: Callable[[int], int]
    text: Callable[[int], str]
    most: int
    limit: str


def _bracket(make: _Maker, evaluator: Evaluator) -> tuple[int, Outcome, int]:
    """A number with a plan, its outcome, and one without (or beyond the most), by doubling."""
    good = _at(make, evaluator, 1)
    if good.status != "planned":
        message = f"not even {make.text(1)} has a plan: {good.reason}"
        raise InfeasibleError(message, remedies=good.remedies)
    low = 1
    while low < make.most:
        high = min(make.most, low * 2)
        outcome = _at(make, evaluator, high)
        if outcome.status != "planned":
            return low, good, high
        low, good = high, outcome
    return low, good, make.most + 1


def _at(make: _Maker, evaluator: Evaluator, number: int) -> Outcome:
    try:
        inputs = make.inputs(number)
    except InputError as error:
        reason = "; ".join(p.message for p in error.problems)
        return Outcome(status="invalid", reason=reason)
    outcome = evaluator(inputs, make.text(number))
    if outcome.status == "failed":
        raise InputError([Problem(make.text(number), outcome.reason)])
    return outcome


def _maker(inputs: PlanInputs, what: What) -> _Maker:
    if what == "model":
        return _models(inputs)
    if what == "seq_len":
        return _Maker(
            lambda n: _with_field(inputs, "seq_len", n * SEQ_STEP),
            lambda n: n * SEQ_STEP,
            lambda n: f"sequences of {n * SEQ_STEP:,} tokens",
            min(MOST, max(1, (inputs.model.graph.max_seq_len or MOST * SEQ_STEP) // SEQ_STEP)),
            "the model allows no longer ones",
        )
    return _Maker(
        lambda n: _with_field(inputs, "micro_batch_rows", [n]),
        lambda n: n,
        lambda n: f"micro-batches of {n:,} rows",
        inputs.job.spec.global_batch,
        "the batch has no more rows",
    )


def _with_field(inputs: PlanInputs, field: str, value: JsonValue) -> PlanInputs:
    return apply_change(inputs, SetField("job", (field,), value, str(value)))


# -- models of one family ---------------------------------------------------------------------


def _models(inputs: PlanInputs) -> _Maker:
    steps = _Steps.of(inputs.model)

    def graph(n: int) -> ModelGraph:
        return steps.model(n).graph

    return _Maker(
        lambda n: replace(inputs, model=steps.model(n)),
        lambda n: graph(n).parameters,
        lambda n: steps.text(n),
        steps.most,
        "no larger one was tried",
    )


@dataclass(frozen=True)
class _Steps:
    """Models like one, larger and smaller, numbered by their width."""

    like: ModelInput
    config: dict[str, JsonValue]
    heads: int
    kv_heads: int
    layers: int
    head_dim: int
    unit: int
    most: int = 4096

    @staticmethod
    def of(model: ModelInput) -> _Steps:
        """The steps of a model. InputError where its configuration has no such fields."""
        config = model.resolved.get("config")
        known = isinstance(config, dict) and model.resolved.get("format") == FORMAT
        if not known or not isinstance(config, dict):
            message = "a layer graph says nothing about how it would grow"
            remedy = "give a Hugging Face config.json or a shipped model to grow like"
            raise InputError([Problem(model.name, message, remedy)])
        heads, layers = _number(config, "num_attention_heads"), _number(config, "num_hidden_layers")
        hidden = _number(config, "hidden_size")
        kv = config.get("num_key_value_heads")
        kv_heads = kv if isinstance(kv, int) else heads
        dim = config.get("head_dim")
        head_dim = dim if isinstance(dim, int) else hidden // heads
        group = heads // kv_heads
        # widths in steps that tensor parallelism up to 8 divides, where the model's own does
        unit = group * (8 if kv_heads % 8 == 0 else 1)
        return _Steps(model, dict(config), heads, kv_heads, layers, head_dim, unit)

    def fields(self, n: int) -> dict[str, JsonValue]:
        """The fields of step ``n``."""
        heads = n * self.unit
        share = heads / self.heads
        hidden = round(_number(self.config, "hidden_size") * share)
        changed: dict[str, JsonValue] = {
            "num_attention_heads": heads,
            "hidden_size": hidden,
            "num_hidden_layers": max(1, round(self.layers * share)),
        }
        if isinstance(self.config.get("num_key_value_heads"), int):
            changed["num_key_value_heads"] = heads * self.kv_heads // self.heads
        for name in ("intermediate_size", "n_inner", "moe_intermediate_size"):
            width = self.config.get(name)
            if isinstance(width, int):
                changed[name] = max(64, round(width * share / 64) * 64)
        return changed

    def model(self, n: int) -> ModelInput:
        """The model of step ``n``."""
        config = {**self.config, **self.fields(n)}
        resolved: dict[str, JsonValue] = {**self.like.resolved, "config": config}
        graph = model_from_resolved(resolved)
        name = f"{self.like.name}, scaled"
        return replace(self.like, name=name, resolved=resolved, graph=graph, notes=())

    def text(self, n: int) -> str:
        """``6.74 billion parameters (32 layers, hidden size 4,096)``."""
        fields = self.fields(n)
        size = self.model(n).graph.parameters
        form = f"{size / 1e9:.3g} billion" if size >= 1e9 else f"{size / 1e6:.3g} million"
        layers, hidden = fields["num_hidden_layers"], _number(fields, "hidden_size")
        return f"{form} parameters ({layers} layers, hidden size {hidden:,})"


def _number(config: dict[str, JsonValue], name: str) -> int:
    value = config.get(name)
    if not isinstance(value, int):
        raise InputError([Problem("model", f"its configuration has no {name}")])
    return value

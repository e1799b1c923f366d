"""An explanation for programs: plain JSON, seconds and bytes, units in the names."""

from __future__ import annotations

from typing import Any

from planner.estimate import Shortfall
from planner.explain import Explanation, Margin, Neighbour, WhyNot
from planner.explain.marginal import Step
from planner.terms import Terms, tightest


def explanation_object(found: Explanation) -> dict[str, Any]:
    """Everything that the page says."""
    slow, tight = found.bottleneck, found.tightest
    return {
        "plan_id": found.plan.plan_id,
        "step_time_s": found.plan.estimate.step_time_s,
        "bottleneck": {
            "pipeline": slow.pipeline,
            "stage": slow.stage,
            "chip": slow.chip,
            "layers": list(slow.layers),
            **_chunks(slow.parts),
            "busy_s": slow.busy_s,
            "share": slow.share,
            "terms_s": slow.terms.as_json(),
        },
        "binding_memory": {
            "pipeline": tight.pipeline,
            "stage": tight.stage,
            "chip": tight.chip,
            "device": tight.device,
            "peak_bytes": tight.peak,
            "usable_bytes": tight.usable,
            "left_bytes": tight.left,
            "items_bytes": dict(tight.items),
        },
        "stages": [
            {
                "stage": load.stage,
                "chip": load.chip,
                "tensor_parallel": load.tensor_parallel,
                "chips": load.chips,
                "layers": list(load.layers),
                **_chunks(load.parts),
                "micro_batch_s": load.micro_batch_s,
                "share_of_bottleneck": load.share,
            }
            for load in found.loads
        ],
        "neighbours": [_neighbour(n) for n in found.neighbours],
        "margins": [_margin(m, found.plan.estimate.step_time_s) for m in found.margins],
        "why_not": [why_not_object(w) for w in found.why_nots],
    }


def why_not_object(answer: WhyNot) -> dict[str, Any]:
    """One answer."""
    deciding = answer.deciding_term
    return {
        "wish": answer.wish,
        "verdict": answer.verdict,
        "how": answer.how,
        "reason": answer.reason,
        "rules": [{"rule": rule, "legal": valid} for rule, valid in answer.rules],
        "step_time_s": answer.plan.estimate.step_time_s if answer.plan else None,
        "tokens_per_s": answer.plan.estimate.tokens_per_s if answer.plan else None,
        "left_bytes": tightest(answer.plan).left if answer.plan else None,
        "lower_bound_s": answer.lower_bound_s,
        "deciding_term": deciding[0] if deciding else None,
        "deciding_term_grows_s": deciding[1] if deciding else None,
        "terms_s": _terms(answer.terms),
        "shortfalls": _shortfalls(answer.shortfalls),
        "remedies": list(answer.remedies),
    }


def _chunks(parts: tuple[tuple[int, int], ...]) -> dict[str, Any]:
    """The chunks of an interleaved stage, which are all that it holds of its layers."""
    return {"chunks": [list(part) for part in parts]} if len(parts) > 1 else {}


def _terms(terms: Terms | None) -> dict[str, float] | None:
    return terms.as_json() if terms is not None else None


def _shortfalls(found: tuple[Shortfall, ...]) -> list[dict[str, Any]]:
    return [
        {
            "stage": s.number - 1,
            "layers": list(s.layers),
            **_chunks(s.chunks),
            "chip": s.chip,
            "peak_bytes": s.peak,
            "usable_bytes": s.usable,
            "pipelines": s.pipelines,
        }
        for s in found
    ]


def _neighbour(neighbour: Neighbour) -> dict[str, Any]:
    return {
        "dimension": neighbour.dimension,
        "change": neighbour.change,
        "verdict": neighbour.verdict,
        "step_time_s": neighbour.step_time_s,
        "left_bytes": tightest(neighbour.plan).left if neighbour.plan else None,
        "terms_s": _terms(neighbour.terms),
        "shortfalls": _shortfalls(neighbour.shortfalls),
        "reason": neighbour.reason,
    }


def _margin(margin: Margin, own_s: float) -> dict[str, Any]:
    return {
        "chip": margin.chip,
        "unit": margin.unit,
        "chips_per_unit": margin.chips,
        "one_more": _step(margin.more),
        "one_less": _step(margin.less),
        "saved_by_one_more_s": margin.saved_s(own_s),
        "lost_by_one_less_s": margin.lost_s(own_s),
        "dual_estimate_s": margin.dual_s,
    }


def _step(step: Step) -> dict[str, Any]:
    outcome = step.planned.outcome if step.planned else None
    return {
        "change": step.change,
        "status": outcome.status if outcome else "impossible",
        "step_time_s": outcome.step_time_s if outcome else None,
        "lower_bound_s": outcome.lower_bound_s if outcome else None,
        "reason": (outcome.reason if outcome else step.reason),
    }

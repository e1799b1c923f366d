"""Why a plan is as it is: what decides its time and its memory, and what its neighbours cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from planner.explain.adjacent import Neighbour, neighbours
from planner.explain.answers import WhyNot, why_not
from planner.explain.marginal import Margin, margins
from planner.explain.prices import dual_prices
from planner.explain.wish import Wish
from planner.plan import Plan
from planner.scenario.inputs import PlanInputs, inputs_of
from planner.solve import Context, prepare
from planner.terms import Bottleneck, Tightest, bottleneck, per_micro_batch_s, tightest
from planner.whatif.evaluation import Effort


@dataclass(frozen=True, slots=True)
class StageLoad:
    """How busy a stage is: its share of the bottleneck's time per micro-batch."""

    pipeline: int
    stage: int
    chip: str
    tensor_parallel: int
    chips: int
    layers: tuple[int, int]
    micro_batch_s: float
    share: float
    parts: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Explanation:
    """Everything that is said about a plan. ``loads`` are the stages of the bottleneck's pipeline.

    ``margins`` is empty where nobody asked for it: it takes a search per line.
    """

    plan: Plan
    bottleneck: Bottleneck
    tightest: Tightest
    loads: tuple[StageLoad, ...]
    neighbours: tuple[Neighbour, ...]
    margins: tuple[Margin, ...]
    why_nots: tuple[WhyNot, ...]

    @property
    def better(self) -> tuple[Neighbour, ...]:
        """Neighbours that are faster than the plan: the search missed them."""
        return tuple(n for n in self.neighbours if n.verdict == "faster")

    @property
    def best_neighbour(self) -> Plan | None:
        """The fastest neighbour that is faster than the plan, as a plan without a certificate."""
        plans = [n.plan for n in self.better if n.plan is not None]
        return min(plans, key=lambda p: p.estimate.step_time_s, default=None)


@dataclass(frozen=True, slots=True)
class Ask:
    """What an explanation is to hold beside the plan's own figures.

    ``search`` allows searches for wishes; without it they are priced only. ``workers`` searches
    for margins run at a time.
    """

    margins: bool = False
    wishes: tuple[Wish, ...] = ()
    search: bool = True
    effort: Effort | None = None
    workers: int = 1


def explain(
    plan: Plan,
    ask: Ask | None = None,
    *,
    progress: Callable[[str], None] = lambda _: None,
    interrupted: Callable[[], bool] = lambda: False,
) -> Explanation:
    """Explain a plan from its file alone.

    Raises InputError for a plan whose inputs are damaged, and for wishes about chips that its
    cluster does not have.
    """
    ask = ask or Ask()
    inputs = inputs_of(plan)
    context = prepare(inputs.model, inputs.cluster, inputs.job, inputs.profile)
    answers = []
    for wish in ask.wishes:
        progress(wish.text)
        answers.append(
            why_not(
                inputs,
                plan,
                wish,
                ask.effort,
                search=ask.search,
                context=context,
                interrupted=interrupted,
            )
        )
    return Explanation(
        plan=plan,
        bottleneck=bottleneck(plan),
        tightest=tightest(plan),
        loads=stage_loads(plan),
        neighbours=neighbours(context, plan),
        margins=_margins(inputs, context, plan, ask, progress, interrupted) if ask.margins else (),
        why_nots=tuple(answers),
    )


def stage_loads(plan: Plan) -> tuple[StageLoad, ...]:
    """The stages of the pipeline that ends last."""
    slow = bottleneck(plan)
    stages = plan.pipelines[slow.pipeline].stages
    longest = per_micro_batch_s(stages[slow.stage])
    return tuple(
        StageLoad(
            pipeline=slow.pipeline,
            stage=s,
            chip=stage.replicas[0].chip,
            tensor_parallel=stage.replicas[0].mesh.tensor_parallel,
            chips=len(stage.replicas[0].devices),
            layers=stage.layers,
            micro_batch_s=per_micro_batch_s(stage),
            share=per_micro_batch_s(stage) / longest,
            parts=stage.parts,
        )
        for s, stage in enumerate(stages)
    )


def _margins(
    inputs: PlanInputs,
    context: Context,
    plan: Plan,
    ask: Ask,
    progress: Callable[[str], None],
    interrupted: Callable[[], bool],
) -> tuple[Margin, ...]:
    duals = dual_prices(context)
    return margins(
        inputs,
        plan,
        ask.effort or Effort(),
        duals=dict(duals) if duals is not None else None,
        workers=ask.workers,
        progress=progress,
        interrupted=interrupted,
    )

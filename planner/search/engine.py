"""Branch and bound over regions of the space: the best plan, and how far anything can be below it.

1. A region's relaxation gives a proven bound (``relaxation``); a region whose bound is within the
   gap of the best plan so far is closed.
2. The region with the lowest bound is split where its relaxation's optimum is not one setting.
3. Single settings are searched for plans: column generation, the integer master, then placement
   on named devices, whose price is what is compared.

The proven bound of the whole space is the least bound of all regions, whenever one stops.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

from costmodels.units import PS_PER_S
from planner.search.allowances import Allowances
from planner.search.equal import equal_plans
from planner.search.exact_bound import Leaf
from planner.search.infeasible import nothing_fits
from planner.search.neighbours import FEW, fewer, more, moved, times, with_count
from planner.search.planning import Planning, Solution
from planner.search.problem import Problem
from planner.search.regions import STAGED, Region, apart, balanced, fluid_bound_s, roots
from planner.search.relaxation import Relaxation

LOOK_ROUNDS = (4, 2)
"""Rounds of a relaxation before a region is judged: at a root, and with inherited columns."""
LOOK_WIDTH = 0.012
"""How narrow takts are looked at where only the direction matters."""
LATER_ROUNDS = 6
"""Rounds more of a first look that met nothing in time, while no plan is known."""
FULL_ROUNDS = 24
PLAN_ROUNDS = 10
SEARCHED = 3
"""Regions searched for plans before the proof begins."""
FOLLOWED = 5
"""Numbers of pipelines tried on either side of the first, as long as plans improve."""
SCOUT_ROUNDS = 6
"""Rounds of column generation after which numbers of pipelines are compared."""
BETWEEN = (0.75, 1.5)
"""Numbers between halves and doubles that are compared with the best, in ratios to it."""
WORSE = 0.015
"""Numbers of pipelines whose columns admit so much less than the best are not planned."""
SCOUTED = 2
"""Plans of equal pipelines that are priced for real when numbers of pipelines are compared."""
LARGE = 1024
"""Chips from which plans of equal pipelines are built in any case, first where rows are few."""
SEVERAL = 8
"""Chips from which they are built, last, where a step has fewer rows than there are chips."""
EQUAL_PRICED = 6
"""So many of a region are priced for real."""
GUESSED_NEAR = 1.3
"""No equal pipelines whose guessed time is further above the best plan are: guesses err both
ways."""
FAR = 1.1
"""Regions whose equal pipelines are so much slower than the best of all are left to the proof."""
WORTH_A_LOOK = 1e-3
"""Regions whose relaxation is not this much better than the best plan are left to the proof."""
GUESSED_WELL = 0.002
"""Relative error of a plan's guessed time below which it is not chosen again."""
SYNC_SHARES = (1.0, 0.6, 0.35)
"""Parts of the measured synchronisation to which plans are held in turn."""
HOPED_FOR = 0.01
"""How much faster than the best plan an allowance is looked for."""
ALLOWANCES = 3
"""Allowances that are looked for in turn."""
HEADROOM = 0.9
"""Part of the gap that a proof aims to use up."""
FINEST_SHARE = 0.1
"""Part of the gap down to which takts are looked at."""


@dataclass(frozen=True, slots=True)
class SearchLimits:
    """When to stop. Work limits are deterministic; ``interrupted`` is the wall clock's voice."""

    gap: float
    seed: int
    rounds: int = PLAN_ROUNDS
    integer_work: float = 0.6
    max_queries: int = 100_000
    only_classes: tuple[int, ...] | None = None
    use_all: bool = False
    uniform_tried: int = 5
    """Plans of equal pipelines priced for real beside the integer master's."""
    follow: bool = True
    """Whether other numbers of pipelines than the relaxation's are tried for first plans."""


@dataclass(frozen=True)
class Progress:
    """How far the search is: best formula time and proven bound in seconds so far."""

    stage: str
    best_s: float | None
    bound_s: float | None
    detail: str = ""


@dataclass(frozen=True)
class Realised:
    """A solution on named devices: formula time, and how long each layer's replicas exchange."""

    real_ps: int
    sync_ps: tuple[int, ...]


@dataclass
class SearchOutcome:
    """Best solution, proven bound (picoseconds), and what was explored."""

    solution: Solution | None
    lower_bound_ps: int
    complete: bool
    nodes: int
    queries: int
    proven_infeasible: bool = False
    leaves: tuple[Leaf, ...] = ()
    """Regions that together hold the declared space, with what the proof met in each."""


class _Node:
    """A region with its relaxation, made on first use. ``bound_ps`` is proven."""

    def __init__(self, region: Region, fluid_ps: int, parent: _Node | None) -> None:
        self.region = region
        self.bound_ps: int = max(fluid_ps, parent.bound_ps if parent is not None else 0)
        self.parent = parent
        self.relaxation: Relaxation | None = None
        self.searched = False
        self.settled = False
        self.built_ps: int | None = None
        """Formula time of the best equal pipelines that were built; a guess if none was placed."""

    @property
    def outlook_ps(self) -> int:
        """Where the relaxation will end, as far as it is known: the target that it admits."""
        known = self.relaxation or (self.parent.relaxation if self.parent is not None else None)
        target = known.target_ps if known is not None else None
        return self.bound_ps if target is None else max(self.bound_ps, target)


class Engine:
    """One search over a problem."""

    def __init__(
        self,
        problem: Problem,
        limits: SearchLimits,
        *,
        realise: Callable[[Solution], Realised | None] | None = None,
        progress: Callable[[Progress], None] = lambda _: None,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> None:
        self.problem = problem
        self.limits = limits
        self.best: Solution | None = None
        self._known_ps: int | None = None
        self._realise = realise or (lambda solution: Realised(solution.target_ps, ()))
        self._progress = progress
        self._interrupted = interrupted
        self._stopped = False
        self._queries = 0
        self._count = 0
        self._open: list[_Node] = []
        self._searched: set[Region] = set()
        self._scouts: dict[Region, int | None] = {}
        for region in roots(problem, limits.only_classes):
            setting = region.setting(problem, limits.only_classes)
            fluid = fluid_bound_s(problem, setting)
            if fluid < float("inf"):
                self._open.append(_Node(region, int(fluid * PS_PER_S * (1 - 1e-9)), None))

    def know(self, real_ps: int) -> None:
        """A plan of this formula time is known from elsewhere: only faster ones are of interest."""
        if self._known_ps is None or real_ps < self._known_ps:
            self._known_ps = real_ps

    @property
    def limit_ps(self) -> int | None:
        """Formula time of the best plan known; None while there is none."""
        known = [self._known_ps] if self._known_ps is not None else []
        return min([*known, *([self.best.real_ps] if self.best is not None else [])], default=None)

    # -- finding a plan -----------------------------------------------------------------------

    def find(self) -> Solution | None:
        """A first plan near the optimum of the most promising regions' relaxations.

        The rest is left to the proof: it searches whatever it cannot rule out.
        """
        searched = 0
        chips = self.problem.chips_of(self.limits.only_classes)
        starved = self.problem.global_batch < chips
        at_once = starved and chips >= LARGE
        if at_once:
            self._offer_equal()
        first = self.problem.topology.cross_vendor_collectives == STAGED
        if first:
            self._keep_apart()
        while searched < SEARCHED and not self.stop() and not self._proven():
            chosen = self._promising()
            if chosen is None:
                break
            if chosen.relaxation is None:
                self._look(chosen)
            elif chosen.relaxation.target_ps is None:
                self._look(chosen)
                chosen.searched = chosen.relaxation.target_ps is None
            else:
                self._probe(chosen)
                searched += 1
        if not first:
            self._keep_apart()
        if not at_once and chips >= (SEVERAL if starved else LARGE):
            self._offer_equal()
        return self.best

    def _offer_equal(self) -> None:
        """Plans of equal pipelines, built and not searched.

        With fewer rows than chips they are hard to beat, and on large fleets come first; elsewhere
        the search may find better ones, and would be misled by what it has to beat.
        """
        if self.limits.use_all or not self.limits.follow:
            return
        for node in sorted(self._open, key=lambda n: (n.bound_ps, n.region)):
            limit = self.limit_ps
            if self.stop() or self._proven() or (limit is not None and node.bound_ps >= limit):
                break
            only = self.limits.only_classes
            plans = equal_plans(self.problem, node.region, only, EQUAL_PRICED, self.stop)
            near = [p for p in plans if limit is None or p.target_ps < limit * GUESSED_NEAR]
            placed = [(plan, self._realise(plan)) for plan in near]
            guessed = min((p.target_ps for p in plans), default=None)
            node.built_ps = min((r.real_ps for _, r in placed if r is not None), default=guessed)
            kept = [self._keep(*each) for each in placed]
            if any(kept):
                self.report("searching", None)

    def _hopeful(self, node: _Node) -> bool:
        """Whether a region's equal pipelines came near the best of any region, if it has some."""
        built = [n.built_ps for n in self._open if n.built_ps is not None]
        return node.built_ps is None or node.built_ps <= min(built, default=0) * FAR

    def _keep_apart(self) -> None:
        """Plans in which vendors share no layer, where they could but their collectives are slow.

        These lie in the one region that the proof knows; its relaxation sees little of what the
        collectives cost.
        """
        if self.problem.topology.cross_vendor_collectives == "none" or not self._open:
            return
        if not self._hopeful(self._open[0]):
            return
        nodes, known = [], {node.region for node in self._open}
        for region in apart(self.problem, self.limits.only_classes):
            if region in known or region.chunks not in (None, 1):
                continue  # a region of its own, or interleaved pipelines of one that is known
            setting = region.setting(self.problem, self.limits.only_classes)
            fluid = fluid_bound_s(self.problem, setting)
            if fluid < float("inf") and not self.stop():
                # what the whole region has met mixes vendors: little of it is legal here
                nodes.append(_Node(region, int(fluid * PS_PER_S * (1 - 1e-9)), None))
                self._look(nodes[-1])
        for node in sorted(nodes, key=lambda n: (n.outlook_ps, n.region)):
            if self.stop() or self._proven():
                break
            if self.limit_ps is None or node.outlook_ps < self.limit_ps * (1 - WORTH_A_LOOK):
                self._probe(node)

    def _proven(self) -> bool:
        """Whether the best plan is as good as was asked for."""
        limit = self.limit_ps
        return limit is not None and self.bound_ps() >= limit * (1 - self.limits.gap)

    def _probe(self, node: _Node) -> None:
        """First plans near the optimum of a region's relaxation, before the region is split.

        The relaxation sees little of what synchronisation costs: more pipelines than it wants are
        tried while they give better plans, then fewer, half and double; then other cuts between
        vendors. Later regions begin at the best number so far.
        """
        node.searched = True
        region = balanced(self.problem, node.region, self.limits.only_classes)
        known = sum(self.best.counts) if self.best is not None else None
        at = with_count(self.problem, region, known or self._relaxation(node).pipelines)
        if self.limits.follow:
            at = self._scouted(node, at)
        self._try(node, at)
        if self.limits.follow:
            self._follow(node, at)
        self._scouts.clear()

    def _follow(self, node: _Node, at: Region) -> None:
        """Other numbers of pipelines and other cuts, as long as they give better plans."""
        at = self._walk(node, self._walk(node, at, more), fewer)
        for factor in (0.5, 2.0):
            # a hill further off: as where few pipelines of whole nodes are best
            near, at = at, self._walk(node, at, partial(times, factor))
            if at != near:
                at = self._walk(node, self._walk(node, at, more), fewer)
        for cut in range(len(at.cuts)):
            at = self._walk(node, at, partial(moved, cut, 1))
            at = self._walk(node, at, partial(moved, cut, -1))

    def _scouted(self, node: _Node, at: Region) -> Region:
        """Where pipelines are many: half as many, as long as the columns' relaxation improves.

        Then the best of the last number and of those between it and its neighbours.

        Columns expect to synchronise, which takes longer the more pipelines there are.
        """
        best, least = at, self._expected(node, at)
        while best.replicas[0] > FEW and not self.stop():
            on = times(0.5, self.problem, best)
            found = self._expected(node, on)
            if found is None or (least is not None and found >= least):
                break
            best, least = on, found
        if best.replicas[0] <= FEW:
            return best
        between = [times(factor, self.problem, best) for factor in BETWEEN]
        known = [(self._expected(node, on), on) for on in between]
        better = [(found, on) for found, on in known if found is not None]
        return min([*better, *([(least, best)] if least is not None else [])], default=(0, best))[1]

    def _expected(self, node: _Node, region: Region) -> int | None:
        """The least target that columns of a single setting admit, roughly; None if none does.

        Equal pipelines, whose replicas meet on chips of one class, may do better than that.
        """
        if region not in self._scouts:
            setting = region.setting(self.problem, self.limits.only_classes)
            planning = Planning(self.problem, setting, self._relaxation(node))
            known = [found for found in self._scouts.values() if found is not None]
            guess = min(known, default=self.limit_ps)
            target = planning.generate(None, SCOUT_ROUNDS, self.stop, rough=True, guess_ps=guess)
            self._queries += planning.queries
            equal = planning.equal(SCOUTED)
            if not self.limits.use_all and self._offer_each(equal):
                self.report("searching", None, region)
            least = [target] if target is not None else []
            self._scouts[region] = min([*least, *(s.target_ps for s in equal)], default=None)
        return self._scouts[region]

    def _walk(self, node: _Node, at: Region, step: Callable[[Problem, Region], Region]) -> Region:
        """Go on step by step while plans improve; the last region that gave a better one.

        While no plan found is as good as what is known, any step is one on where pipelines are few.
        """
        kept = at
        for _ in range(FOLLOWED):
            on = step(self.problem, at)
            if on == at or self._proven():
                break
            better = self._try(node, on)
            on_the_way = on.replicas[0] <= FEW or self.limit_ps is None
            if not better and not (on_the_way and self._beaten()):
                break
            at = on
            kept = on if better else kept
        return kept

    def _beaten(self) -> bool:
        """Whether what is known from elsewhere is better than any plan found, or there is none."""
        limit = self.limit_ps
        return self.best is None or (limit is not None and self.best.real_ps > limit)

    def _try(self, node: _Node, region: Region) -> bool:
        """Look for plans of a single setting inside a node; whether a better one was found."""
        if region in self._searched:
            return False
        single = _Node(region, 0, node)
        if self.limits.follow and region.replicas[0] > FEW:
            expected = self._expected(node, region)
            if expected is None or (self.limit_ps is not None and expected >= self.limit_ps):
                return False
            least = min(found for found in self._scouts.values() if found is not None)
            if expected > least * (1 + WORSE):
                return False
            # what the whole node has met says which pipelines are worth a column
            improved = self._plan(single, self._relaxation(node))
            if improved or expected > least:
                return improved
            # the most promising number, and nothing found: with a relaxation of its own
        self._look(single)
        if self.limit_ps is not None and single.outlook_ps >= self.limit_ps:
            return False
        return self._plan(single)

    def _promising(self) -> _Node | None:
        """The unsearched region with the best outlook, if it may still hold a better plan."""
        left = [n for n in self._open if not n.searched and self._hopeful(n)]
        best = min(left, key=lambda n: (n.outlook_ps, n.region), default=None)
        limit = self.limit_ps
        if best is None or limit is None:
            return best
        return best if best.outlook_ps < limit * (1 - WORTH_A_LOOK) else None

    def _relaxation(self, node: _Node) -> Relaxation:
        if node.relaxation is None:
            setting = node.region.setting(self.problem, self.limits.only_classes)
            guess = self.limit_ps or int(node.bound_ps * 1.25) + 1
            node.relaxation = Relaxation(
                self.problem, setting, self.problem.sizes_of(setting), guess, self.limit_ps
            )
            if node.parent is not None and node.parent.relaxation is not None:
                node.relaxation.inherit(node.parent.relaxation)
        return node.relaxation

    def _improve(self, node: _Node, goal_ps: int | None, rounds: int, finest: float) -> bool:
        """Raise a region's bound; whether it is closed at the goal."""
        relaxation = self._relaxation(node)
        if self.limit_ps is not None:
            relaxation.within(self.limit_ps)
        before = relaxation.queries
        relaxation.bound_ps = max(relaxation.bound_ps, node.bound_ps)
        closed = relaxation.improve(
            goal_ps,
            rounds=rounds,
            max_queries=before + max(0, self.limits.max_queries - self._queries),
            finest=finest,
            interrupted=self.stop,
        )
        self._queries += relaxation.queries - before
        node.bound_ps = max(node.bound_ps, relaxation.bound_ps)
        return closed

    def _look(self, node: _Node) -> None:
        """A rough relaxation: where its optimum lies, and the first bound."""
        limit = self.limit_ps
        self._improve(node, limit, LOOK_ROUNDS[node.parent is not None], LOOK_WIDTH)
        if limit is None and self._relaxation(node).target_ps is None:
            # the least time of a wider region may be far too early here: ever later, then
            self._improve(node, None, LATER_ROUNDS, LOOK_WIDTH)

    def _split(self, node: _Node) -> None:
        """Replace a region by its two halves, each with a first look."""
        self._open.remove(node)
        relaxation = self._relaxation(node)
        for region in node.region.parts(relaxation.pipelines, self._cuts(node)):
            child = _Node(region, node.bound_ps, node)
            child.searched = node.region.single
            self._open.append(child)
            self._count += 1
        relaxation.rest()

    def _cuts(self, node: _Node) -> list[float]:
        """Where the relaxation's pipelines change vendor, on average."""
        cuts = [0.5 * (low + high) for low, high in node.region.cuts]
        setting = node.region.setting(self.problem, self.limits.only_classes)
        total = 0.0
        sums = [0.0] * len(cuts)
        for amount, met in self._relaxation(node).used():
            total += amount
            for k in range(len(cuts)):
                before = [s.end for s in met.column.stages if setting.ranks[s.class_index] <= k]
                sums[k] += amount * max(before, default=0)
        return [s / total for s in sums] if total > 0 else cuts

    def _plan(self, node: _Node, guide: Relaxation | None = None) -> bool:
        """Search a single setting for plans; whether a better one was found.

        ``guide``: the relaxation that says where to begin, if it is not the setting's own.
        """
        node.searched = True
        self._searched.add(node.region)
        setting = node.region.setting(self.problem, self.limits.only_classes)
        planning = Planning(self.problem, setting, guide or self._relaxation(node))
        limit = self.limit_ps
        target = planning.generate(limit, self.limits.rounds, self.stop)
        improved = False
        if target is not None:
            if setting.replicas[0] == setting.replicas[1]:
                planning.probe_uniform()
            planning.dive(self.stop)
            found = self._whole(planning)
            # targets guess synchronisation: price the last few of ever better solutions for real
            placed = [(s, self._realise(s)) for s in found[:-4:-1]]
            kept = [self._keep(*p) for p in placed]
            improved = any(kept)
            if placed:
                improved |= self._synchronised(planning, *placed[0])
            if not self.limits.use_all:
                improved |= self._offer_each(planning.equal(self.limits.uniform_tried))
        self._queries += planning.queries
        self.report("searching", None, node.region)
        return improved

    def _offer_each(self, solutions: list[Solution]) -> bool:
        """Offer all but those far above the best plan found; whether any was kept.

        What is known from elsewhere may be a deadline that nothing meets: the first plan counts.
        """

        def near(solution: Solution) -> bool:
            return self.best is None or solution.target_ps < self.best.real_ps * GUESSED_NEAR

        kept = [self.offer(s) for s in solutions if near(s)]
        return any(kept)

    def offer(self, solution: Solution) -> bool:
        """Keep a solution if it is the best once placed: its target becomes the real one."""
        return self._keep(solution, self._realise(solution))

    def _keep(self, solution: Solution, real: Realised | None) -> bool:
        """Keep a placed solution if it is the best."""
        if real is None or (self.best is not None and real.real_ps >= self.best.real_ps):
            return False
        self.best = replace(solution, real_ps=real.real_ps)
        return True

    def _synchronised(self, planning: Planning, solution: Solution, real: Realised | None) -> bool:
        """Choose again with what synchronisation takes where the guess of it was wrong.

        A guess sees one pipeline; on devices the slowest replica of a layer decides for all.
        """
        if real is None or real.real_ps <= solution.target_ps * (1 + GUESSED_WELL):
            return False
        improved = False
        for share in SYNC_SHARES:
            found = self._whole(planning, [int(t * share) for t in real.sync_ps])
            improved |= self._offer_each(found[:-3:-1])
        low, high = planning.setting.replicas
        # an interval is one that the proof could not close: the finer look would hold it up
        if low > FEW and low == high and not self.limits.use_all:
            improved |= self._allowed(planning, real)
        return improved

    def _allowed(self, planning: Planning, real: Realised) -> bool:
        """Many pipelines: in bundles that share islands, under allowances for synchronisation."""
        found = self._whole(planning, bundled=True)[:-3:-1]
        placed = [(s, self._realise(s)) for s in found]
        kept = [self._keep(*each) for each in placed]
        improved = any(kept)
        start = min([real, *(r for _, r in placed if r is not None)], key=lambda r: r.real_ps)
        limit = self.limit_ps or start.real_ps
        allowances = Allowances(planning).search(
            start.sync_ps, int(limit * (1 - HOPED_FOR)), self.stop
        )
        for allowance in islice(allowances, ALLOWANCES):
            better = self._offer_each(self._whole(planning, allowance, bundled=True)[:-4:-1])
            improved |= better
        return improved

    def _whole(
        self,
        planning: Planning,
        demand_ps: Sequence[int] | None = None,
        *,
        bundled: bool = False,
    ) -> list[Solution]:
        """Whole numbers of pipelines that are better than what is known."""
        return planning.whole(
            self.limit_ps,
            seed=self.limits.seed,
            work_limit=self.limits.integer_work,
            use_all=self.limits.use_all,
            demand_ps=demand_ps,
            bundled=bundled,
        )

    # -- proving --------------------------------------------------------------------------------

    def prove(self) -> SearchOutcome:
        """The proven bound on what :meth:`find` looked for, or that nothing fits."""
        if self.limit_ps is None:
            impossible = not self._open or nothing_fits(
                self.problem, [n.region for n in self._open], self.limits.only_classes, self.stop
            )
            return SearchOutcome(None, 0, False, self._count, self._queries, impossible)
        while not (self.stop() or self._proven()) and self._queries < self.limits.max_queries:
            goal = int(self._best_ps() * (1 - HEADROOM * self.limits.gap))
            waiting = [n for n in self._open if not n.settled and n.bound_ps < goal]
            settled = min((n.bound_ps for n in self._open if n.settled), default=goal)
            if not waiting or min(n.bound_ps for n in waiting) >= settled:
                break
            self._tighten(min(waiting, key=lambda n: (n.bound_ps, n.region)), goal)
            self.report("proving", self.bound_ps())
        bound = self.bound_ps()
        complete = not self.stop() and bound >= self._best_ps() * (1 - self.limits.gap)
        leaves = tuple(self._leaf(node) for node in self._open)
        return SearchOutcome(self.best, bound, complete, self._count, self._queries, leaves=leaves)

    def _leaf(self, node: _Node) -> Leaf:
        """A region as it is left, with what it or the region that it was cut from has met."""
        setting = node.region.setting(self.problem, self.limits.only_classes)
        known = node.relaxation or (node.parent.relaxation if node.parent is not None else None)
        if known is None:
            return Leaf(node.region, setting, None, ())
        met = tuple((each.column.size, each.pipeline) for each in known.met.values())
        return Leaf(node.region, setting, known.prices, met)

    def bound_ps(self) -> int:
        """No plan of the declared space is faster: the least bound of all regions."""
        return min([self._best_ps(), *(n.bound_ps for n in self._open)])

    def _best_ps(self) -> int:
        return self.limit_ps or 0

    def _tighten(self, node: _Node, goal: int) -> None:
        """Close a region at the goal, split it, or take what its own relaxation gives."""
        finest = max(1e-4, FINEST_SHARE * self.limits.gap)
        single = node.region.single
        if self._improve(node, goal, FULL_ROUNDS if single else LOOK_ROUNDS[1], finest):
            self._relaxation(node).rest()
            return
        target = node.relaxation.target_ps if node.relaxation is not None else None
        if not single:
            self._split(node)
            return
        limit = self.limit_ps
        hopeful = target is not None and (limit is None or target < limit)
        searched = node.searched or node.region in self._searched
        if hopeful and not searched and self._plan(node):
            return
        if node.region.splits_on:
            self._split(node)
        else:
            node.settled = True
            self._relaxation(node).rest()

    def stop(self) -> bool:
        """Whether the user or the clock asked to stop; remembered."""
        self._stopped = self._stopped or self._interrupted()
        return self._stopped

    def report(self, stage: str, bound: int | None, region: Region | None = None) -> None:
        """Tell the caller how far the search is."""
        detail = region.setting(self.problem).describe() if region is not None else ""
        best = self.limit_ps
        self._progress(
            Progress(
                stage,
                best / PS_PER_S if best is not None else None,
                bound / PS_PER_S if bound else None,
                detail,
            )
        )

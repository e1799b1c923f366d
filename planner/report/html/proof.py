"""What was proved about the plan, what was searched, and every value that was assumed."""

from __future__ import annotations

from planner.plan import Alternative, Certificate, Plan
from planner.report.format import duration, percent
from planner.report.html.tags import Html, tag
from planner.report.objective import amount, proven


def proof(plan: Plan) -> Html:
    """The certificate as a line from the bound to the plan, and in words."""
    certificate = plan.certificate
    if certificate is None:
        text = "This layout was given and priced, not searched: nothing is proved about it."
        return tag("p", text)
    return tag(
        "div",
        tag("p", _words(certificate), class_="lead"),
        _line(certificate),
        tag("p", _limits(certificate, plan.estimate.step_time_s), class_="note"),
        tag(
            "details",
            tag("summary", "What was searched, and what was not"),
            tag("h4", "Searched"),
            tag("ul", [tag("li", text) for text in certificate.search_space.allowed]),
            tag("h4", "Not searched") if certificate.search_space.dropped else None,
            tag("ul", [tag("li", text) for text in certificate.search_space.dropped]),
        ),
    )


def _words(certificate: Certificate) -> str:
    if certificate.lower_bound_s <= 0:
        return "Nothing was proved before the search was stopped."
    if certificate.status == "optimal":
        better = "faster" if certificate.objective is None else "both fast enough and better"
        return f"No plan of the declared space is {better}."
    if certificate.objective is not None:
        return (
            f"{proven(certificate)}. At most {percent(certificate.gap)} from the best possible "
            "among the plans of the declared space that are fast enough."
        )
    return (
        f"No plan of the declared space takes less than {duration(certificate.lower_bound_s)}: "
        f"this one is at most {percent(certificate.gap)} from the best possible."
    )


def _line(certificate: Certificate) -> Html:
    """Bound and plan on a scale from zero."""
    low, high = certificate.lower_bound_s, certificate.objective_s
    shown = (f"below {duration(low)}", f"{duration(high)} (formula time)")
    if certificate.objective is not None:
        low, high = certificate.objective.lower_bound, certificate.objective.formula_value
        unit = certificate.objective.unit
        shown = (f"below {amount(low, unit)}", f"{amount(high, unit)} (by formula time)")
    part = 100.0 * low / high if high else 0.0
    return tag(
        "div",
        tag(
            "div",
            tag("div", class_="impossible", style=f"width:{part:.2f}%"),
            tag("div", class_="open", style=f"width:{100 - part:.2f}%"),
            class_="scale",
        ),
        tag(
            "div",
            tag("span", f"impossible: {shown[0]}"),
            tag("span", f"this plan: {shown[1]}"),
            class_="ends",
        ),
        class_="proof",
    )


def _limits(certificate: Certificate, step_s: float) -> str:
    solver = certificate.solver
    versions = ", ".join(f"{name} {version}" for name, version in solver.versions.items())
    text = f"{solver.name} ({versions}), seed {solver.seed}."
    if certificate.exact_lower_bound_s is not None:
        gap = percent(1.0 - certificate.exact_lower_bound_s / step_s)
        text += (
            f" Bound on the exact time: {duration(certificate.exact_lower_bound_s)}, at most {gap} "
            "from the best possible."
        )
    if not certificate.deterministic:
        text += " Stopped by the clock: another run may give another plan."
    return text


def alternatives(plan: Plan) -> Html | None:
    """Near plans that need consent."""
    if not plan.alternatives:
        return None
    own = plan.estimate.tokens_per_s
    heads = (("change", ""), ("step time", "number"), ("tokens/s", "number"), ("", ""))
    head = tag("tr", [tag("th", name, class_=cls or None) for name, cls in heads])
    rows = [_alternative(other, own) for other in plan.alternatives]
    table = tag("table", tag("thead", head), tag("tbody", rows))
    return tag("div", tag("h3", "Alternatives, if you agree to them"), table, class_="scroll")


def _alternative(other: Alternative, own: float) -> Html:
    change = other.tokens_per_s / own - 1
    sign = "+" if change >= 0 else "−"
    same = abs(change) < 5e-5
    return tag(
        "tr",
        tag("td", other.change),
        tag("td", duration(other.step_time_s), class_="number whole"),
        tag("td", "the same" if same else f"{sign}{percent(abs(change))}", class_="number whole"),
        tag("td", other.description, class_="note"),
    )


def warnings(plan: Plan) -> Html | None:
    """What deserves a look before the plan is trusted."""
    if not plan.warnings:
        return None
    return tag("ul", [tag("li", _remedied(text)) for text in plan.warnings], class_="warnings")


def assumptions(plan: Plan) -> Html:
    """Values that nobody gave."""
    if not plan.assumptions:
        return tag("p", "Nothing was assumed.")
    return tag("ul", [tag("li", _remedied(text)) for text in plan.assumptions])


def _remedied(text: str) -> list[Html | str]:
    """A problem's text: what to try stands on a line of its own."""
    message, found, remedy = text.partition("\n    try: ")
    return [message, tag("div", f"→ {remedy}", class_="remedy") if found else ""]


def origin(plan: Plan) -> Html:
    """Which inputs the page speaks about, by their digests."""
    inputs = plan.inputs
    records = [
        ("model", inputs.model),
        ("cluster", inputs.cluster),
        ("job", inputs.job),
        ("profile", inputs.profile),
        ("catalogue", inputs.catalogue),
    ]
    parts = [f"{what} {r.name} ({r.digest[:12]})" for what, r in records if r is not None]
    text = f"Plan {plan.plan_id} · planner {plan.planner_version} · {' · '.join(parts)}"
    return tag("footer", text)

"""Cost and energy in words."""

from __future__ import annotations

from planner.plan import Certificate, ObjectiveProof
from planner.report.format import duration


def amount(value: float, unit: str) -> str:
    """``1.234 USD per million tokens``, ``0.56 J per token``."""
    words = {
        "usd_per_million_tokens": "USD per million tokens",
        "joules_per_token": "J per token",
    }
    return f"{value:.4g} {words[unit]}"


def objective_row(stated: ObjectiveProof) -> tuple[str, str]:
    """What the plan costs, through which rate, under which floor."""
    rate = f"{stated.rate:,.2f} USD/h" if stated.name == "cost" else f"{stated.rate / 1e3:,.2f} kW"
    text = (
        f"{amount(stated.value, stated.unit)} · the chips in use take {rate}\n"
        f"a step may take {duration(stated.max_step_time_s)}"
    )
    return stated.name, text


def proven(certificate: Certificate) -> str:
    """Objective and bound."""
    stated = certificate.objective
    if stated is None:
        return (
            f"formula time {duration(certificate.objective_s)}, "
            f"proven bound {duration(certificate.lower_bound_s)}"
        )
    return (
        f"by formula time {amount(stated.formula_value, stated.unit)}, "
        f"proven bound {amount(stated.lower_bound, stated.unit)}"
    )

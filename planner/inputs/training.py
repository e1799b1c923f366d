"""Which layers are trained, and how, under a job."""

from __future__ import annotations

from collections.abc import Iterator

from costmodels.training import FULL, Training
from planner.errors import Problem
from planner.graphs.model_graph import ModelGraph
from planner.inputs.job import ResolvedJob


def layer_training(model: ModelGraph, job: ResolvedJob) -> tuple[Training, ...]:
    """How every layer takes part; layers before the first trained one run forward alone."""
    if not job.lora_rank and not job.frozen_layers:
        return (FULL,) * len(model.layers)
    frozen = {i for first, end in job.frozen_layers for i in range(first, end)}
    adapted = Training("lora", job.lora_rank, job.lora_targets)
    out = []
    for index, layer in enumerate(model.layers):
        if index in frozen or (job.lora_rank and layer.shape.kind != "block"):
            out.append(Training("frozen"))
        else:
            out.append(adapted if job.lora_rank else FULL)
    first = next((i for i, t in enumerate(out) if t.mode != "frozen"), len(out))
    return (*[Training("forward")] * first, *out[first:])


def check_training(model: ModelGraph, job: ResolvedJob) -> Iterator[Problem]:
    """Frozen layers that the model does not have, and jobs that train nothing."""
    count = len(model.layers)
    for n, (first, end) in enumerate(job.frozen_layers):
        if end > count:
            where = f"job: frozen_layers[{n}]"
            message = f"[{first}, {end}) goes beyond the {count} layers of {model.name}"
            yield Problem(where, message, f"layers are numbered 0 to {count - 1}")
    if all(t.mode == "forward" for t in layer_training(model, job)):
        what = "job: lora" if job.lora_rank else "job: frozen_layers"
        reason = "no block has a matrix to adapt" if job.lora_rank else "every layer is frozen"
        yield Problem(what, f"nothing is trained: {reason}", "leave some layers to train")


def notes_on_training(model: ModelGraph, job: ResolvedJob) -> Iterator[str]:
    """What a plan says about weights that are not trained."""
    modes = [t.mode for t in layer_training(model, job)]
    if job.lora_rank:
        yield (
            f"LoRA of rank {job.lora_rank} on {_TARGETS[job.lora_targets]} of "
            f"{modes.count('lora')} blocks; all other weights are frozen, in the precision of the "
            "job"
        )
    elif job.frozen_layers:
        yield f"{modes.count('full')} of {len(modes)} layers are trained, the others frozen"
    if "forward" in modes:
        yield (
            f"{modes.count('forward')} layers lie before every trained one: they run no backward "
            "pass and keep no activations"
        )
    if modes.count("full") < len(modes):
        yield (
            "model FLOPs utilisation counts six FLOPs per parameter and token, although frozen "
            "weights need four"
        )


_TARGETS = {
    "attention": "the attention matrices",
    "mlp": "the MLP matrices",
    "all": "all matrices",
}

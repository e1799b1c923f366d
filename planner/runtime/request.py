"""What a run is asked for and what it found, as values that go through files. No PyTorch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class RunRequest(_Frozen):
    """One training run. Paths are as the user gave them.

    Exactly one of ``config`` (a Hugging Face ``config.json``) and ``function``
    (``package.module:name``, which returns what ``parallelize`` takes, alone or with a loss) says
    what the model is. ``data`` is "synthetic" or a token file. ``device`` and ``dtype`` replace
    those of the plan. ``warmup`` steps are left out of the measured step time. ``checkpoint_every``
    0 saves at the end only. ``repeat_work``: chips that do everything so many times.
    """

    plan: str
    config: dict[str, Any] | None = None
    function: str | None = None
    data: str = "synthetic"
    steps: Annotated[int, Field(ge=1)] = 10
    warmup: Annotated[int, Field(ge=0)] = 1
    device: str | None = None
    dtype: Literal["bf16", "fp16", "fp32", "fp64"] | None = None
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    clip_norm: float | None = None
    seed: int = 0
    checkpoint: str | None = None
    checkpoint_every: Annotated[int, Field(ge=0)] = 0
    resume: str | None = None
    timeout_s: float = 600.0
    repeat_work: dict[str, Annotated[int, Field(ge=1)]] = {}
    quiet: bool = False


class StepRecord(_Frozen):
    """One step: mean loss over the global batch before its update, and its wall time."""

    step: int
    loss: float
    time_s: float


class DeviceRecord(_Frozen):
    """What one process measured.

    ``peak_memory_bytes`` is what PyTorch allocated on an accelerator, or the growth of the
    process's resident memory on a processor (``memory_of``). Times are seconds per step, the mean
    after warm-up: computing, waiting for neighbours, reducing gradients, updating. They are None
    on devices that work on while the process measures.
    """

    rank: int
    device: str
    runs_on: str
    chip: str
    pipeline: int
    stage: int
    replica: int
    shard: int
    peak_memory_bytes: int
    memory_of: Literal["device", "process"]
    forward_s: float | None
    backward_s: float | None
    wait_s: float | None
    reduce_s: float | None
    update_s: float | None


class RunRecord(_Frozen):
    """A finished run."""

    plan_id: str
    steps: tuple[StepRecord, ...]
    warmup: int
    tokens_per_step: int
    devices: tuple[DeviceRecord, ...]
    versions: dict[str, str]
    checkpoint: str | None = None

    @property
    def measured(self) -> tuple[float, ...]:
        """Step times that count; all where the run was too short for a warm-up."""
        times = tuple(step.time_s for step in self.steps)
        return times[self.warmup :] or times

    @property
    def step_time_s(self) -> float:
        """The median of the measured step times."""
        ordered = sorted(self.measured)
        middle = len(ordered) // 2
        if len(ordered) % 2:
            return ordered[middle]
        return (ordered[middle - 1] + ordered[middle]) / 2


class Failure(_Frozen):
    """Why one process ended. ``consequence``: it only noticed that another one had gone."""

    rank: int
    code: int
    message: str
    consequence: bool = False
    remedies: tuple[str, ...] = ()
    trace: str = ""

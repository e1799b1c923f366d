"""JSON Schemas of every file that the planner reads or writes, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

JsonSchema = dict[str, Any]


@dataclass(frozen=True, slots=True)
class SchemaEntry:
    """One kind of file, and how to make its schema (imported only when asked for)."""

    about: str
    make: Callable[[], JsonSchema]


def json_schema(name: str) -> JsonSchema:
    """The JSON Schema of a kind of file, with its draft and title.

    Raises KeyError for a name that is not in :data:`SCHEMAS`.
    """
    entry = SCHEMAS[name]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **entry.make(),
        "title": f"planner {name}",
    }


def _plan() -> JsonSchema:
    from planner.plan import Plan

    # what a reader accepts: fields that are left out of files where they are empty are named too
    return Plan.model_json_schema(mode="validation")


def _cluster() -> JsonSchema:
    from planner.inputs.cluster_spec import ClusterSpec

    return ClusterSpec.model_json_schema()


def _job() -> JsonSchema:
    from planner.inputs.job import JobSpec

    return JobSpec.model_json_schema()


def _layout() -> JsonSchema:
    from planner.inputs.layout_spec import LayoutSpec

    return LayoutSpec.model_json_schema()


def _operator_graph() -> JsonSchema:
    from planner.inputs.operator_graph import OperatorGraph

    return OperatorGraph.model_json_schema(by_alias=True)


def _partition() -> JsonSchema:
    from planner.partition_file import PartitionFile

    return PartitionFile.model_json_schema(mode="serialization", by_alias=True)


def _model() -> JsonSchema:
    from planner.inputs.model import model_json_schema

    return model_json_schema()


def _profile() -> JsonSchema:
    from planner.inputs.profile_spec import ProfileSpec

    return ProfileSpec.model_json_schema()


SCHEMAS: dict[str, SchemaEntry] = {
    "cluster": SchemaEntry("a cluster file: chips, nodes, ports, switches, links", _cluster),
    "job": SchemaEntry("a job file: batch, sequence length, precision, techniques", _job),
    "layout": SchemaEntry("a layout file: tp, pp, dp and what else you would set by hand", _layout),
    "model": SchemaEntry(
        "a layer-graph file (a Hugging Face config.json has its own format)", _model
    ),
    "operator-graph": SchemaEntry(
        "an operator-graph file: nodes with times of their own, tensors, devices", _operator_graph
    ),
    "partition": SchemaEntry("partition.json, schema version 1", _partition),
    "plan": SchemaEntry("plan.json, schema version 1", _plan),
    "profile": SchemaEntry("profile.json: measured layer times, memory and links", _profile),
}
"""Every kind of file that has a schema, in alphabetical order."""

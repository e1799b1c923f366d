"""Layer prices of a restored plan, each way to run the layers once."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from costmodels.price import LayerConfig, LayerPrice, price_layer
from planner.graphs.topology import IslandClass
from planner.inputs.training import layer_training
from planner.plan import Mesh
from planner.restore import Restored
from planner.verify.meshes import expert_slices

Way = tuple[float, float]
"""Bytes/s that one chip has of the way between two islands, and seconds of a hop."""


@dataclass
class Prices:
    """Prices of all layers by class, mesh and rows."""

    world: Restored
    _layers: dict[tuple[int, Mesh, int, Way | None], tuple[LayerPrice, ...]] = field(
        default_factory=dict
    )
    _ways: dict[tuple[str, ...], Way | None] = field(default_factory=dict)
    _scales: dict[tuple[int, int], float] = field(default_factory=dict)

    def way(self, devices: tuple[str, ...]) -> Way | None:
        """Bytes/s per chip and seconds of the slowest way between a replica's islands, if many."""
        names = tuple(dict.fromkeys(self.world.island_of[d].name for d in devices))
        if len(names) == 1:
            return None
        if names not in self._ways:
            islands = {self.world.island_of[d].name: self.world.island_of[d] for d in devices}
            pairs = [(a, b) for a in names for b in names if a != b]
            routes = [self.world.topology.route(islands[a], islands[b]) for a, b in pairs]
            rates = [r.bandwidth for r in routes if r is not None]
            delays = [r.latency_s for r in routes if r is not None]
            size = len(islands[names[0]].devices)
            self._ways[names] = (min(rates) / size, max(delays))
        return self._ways[names]

    def layers(
        self, cls: IslandClass, mesh: Mesh, rows: int, way: Way | None = None
    ) -> tuple[LayerPrice, ...]:
        """One price per layer of the model, by the formulas, for a micro-batch of ``rows``.

        ``way`` leads from island to island where the mesh lies on several.
        """
        key = (cls.index, mesh, rows, way)
        tp = mesh.tensor_parallel
        if key not in self._layers:
            job, model = self.world.job, self.world.model
            config = LayerConfig(
                rows=rows // mesh.data_parallel,
                seq_len=job.seq_len,
                tp=tp,
                precision=job.precision,
                sequence_parallel=job.sequence_parallel and tp > 1,
                flash=cls.chip.flash_attention,
                grouped_experts=job.grouped_experts and cls.chip.grouped_gemm,
                cp=mesh.context_parallel,
                ep=mesh.expert_parallel,
                expert_tp=None if mesh.expert_parallel == 1 else expert_slices(mesh),
            )
            if way is not None:
                rate, delay = way
                config = replace(config, island=cls.size, port=rate, port_latency_s=delay)
                config = replace(config, once_per_host=True, node_limited=True)
            prices = [
                price_layer(
                    layer.shape,
                    cls.chip,
                    cls.fabric,
                    replace(config, training=training),
                    derate=cls.derate,
                )
                for layer, training in zip(model.layers, layer_training(model, job))
            ]
            if cls.profile is not None:
                prices = [
                    cls.profile.price(index, tp, rows, formula, cls.derate)
                    for index, formula in enumerate(prices)
                ]
            self._layers[key] = tuple(prices)
        return self._layers[key]

    def scale(self, cls: IslandClass, rows: int) -> float:
        """From the formulas to the measured rate of the whole model on one device, if any."""
        if cls.measured_rows_per_s is None:
            return 1.0
        if (cls.index, rows) not in self._scales:
            formula = 0.0
            for layer in self.layers(cls, Mesh(), rows):
                formula += layer.forward_s + layer.backward_input_s + layer.backward_weight_s
            self._scales[cls.index, rows] = rows / cls.measured_rows_per_s / formula
        return self._scales[cls.index, rows]

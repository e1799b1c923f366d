"""Layer prices of a restored plan, each way to run the layers once."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from costmodels.price import LayerConfig, LayerPrice, price_layer
from planner.graphs.topology import IslandClass
from planner.inputs.training import layer_training
from planner.plan import Mesh
from planner.restore import Restored
from planner.verify.meshes import expert_slices


@dataclass
class Prices:
    """Prices of all layers by class, mesh and rows."""

    world: Restored
    _layers: dict[tuple[int, Mesh, int], tuple[LayerPrice, ...]] = field(default_factory=dict)
    _scales: dict[tuple[int, int], float] = field(default_factory=dict)

    def layers(self, cls: IslandClass, mesh: Mesh, rows: int) -> tuple[LayerPrice, ...]:
        """One price per layer of the model, by the formulas, for a micro-batch of ``rows``."""
        key = (cls.index, mesh, rows)
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
                cp=mesh.context_parallel,
                ep=mesh.expert_parallel,
                expert_tp=None if mesh.expert_parallel == 1 else expert_slices(mesh),
            )
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

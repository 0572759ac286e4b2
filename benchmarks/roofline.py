"""How far a measured network is from what its layers must at least take (Williams, Waterman, Patterson, CACM 2009)."""

from collections.abc import Mapping, Sequence

from ..engines.bundle import Bundle, Precision
from ..engines.open import file_precision
from .flops import Layer, count_layers, total_flops
from .report import Ceilings, LayerBound, RooflineRecord
from .ways import Way

MS_PER_S = 1000
KEPT_LAYERS = 10


def roofline(bundle: Bundle, way: Way, batch: int, p50_ms: float, ceilings: Ceilings) -> RooflineRecord:
    """One measured call under the roof; ``p50_ms`` is what the kernels took.

    Raises:
        UsageError: the graph's shapes cannot be inferred.
    """
    choice = way.choice
    of_file = file_precision(choice.backend, choice.precision)
    path = bundle.file(bundle.require("network", of_file))
    layers = count_layers(path, batch, arithmetic=choice.precision if choice.precision != of_file else None)
    return under(layers, choice.precision, p50_ms, ceilings)


def under(layers: Sequence[Layer], precision: Precision, p50_ms: float, ceilings: Ceilings) -> RooflineRecord:
    """Layers under the roof of a machine, and what a call of them really took."""
    bounds = [bound(layer, ceilings) for layer in layers]
    total = sum(each.bound_ms for each in bounds)
    return RooflineRecord(
        precision=precision,
        flops=total_flops(layers),
        bytes=sum(layer.bytes for layer in layers),
        bound_ms=total,
        compute_bound_ms=sum(each.bound_ms for each in bounds if each.limit == "compute"),
        share=total / p50_ms,
        layers=tuple(sorted(bounds, key=lambda each: -each.bound_ms)[:KEPT_LAYERS]),
    )


def bound(layer: Layer, ceilings: Ceilings) -> LayerBound:
    """The larger of computing at the precision's best rate and moving at that of a memory that holds the layer."""
    compute_ms = layer.flops / _rate(layer.precision, ceilings.flops_per_s) * MS_PER_S
    memory_ms = layer.bytes / _bandwidth(layer.bytes, ceilings) * MS_PER_S
    return LayerBound(
        name=layer.name,
        operator=layer.operator,
        flops=layer.flops,
        bytes=layer.bytes,
        bound_ms=max(compute_ms, memory_ms),
        limit="compute" if compute_ms >= memory_ms else "memory",
    )


def _rate(precision: Precision, measured: Mapping[str, float]) -> float:
    """The rate of a precision; of fp32, which all have, where this one was not measured."""
    return measured.get(precision, measured["fp32"])


def _bandwidth(moved: int, ceilings: Ceilings) -> float:
    """The best rate of a working set that is at least as large as all that a layer touches."""
    return max(
        (level.bytes_per_s for level in ceilings.memory if level.working_set_bytes >= moved),
        default=ceilings.bytes_per_s,
    )

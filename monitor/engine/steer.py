"""The steering table: which change of the residual stream each token gets.

The directions of a bundle stand in the graph as one small matrix, with spare lines for directions that are loaded into
the running engine. A line of the table is one token of the coming step: a strength for each direction and operator
(:mod:`monitor.engine.ops` has the formulas), all zero for a token that is not steered. Matrix and table are persistent
tensors that the compiled graph reads; the host writes them between forward passes.

Runs in: vLLM worker.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from monitor.engine import ops
from monitor.errors import PlanError
from monitor.types import Operator, Steering
from probes.bundle import Bundle
from probes.types import Direction

Ints = NDArray[np.int64]
OutputChange = Callable[[Tensor, Tensor | None], None]
WriteChange = Callable[[Tensor], None]

_KINDS = (Operator.ABLATE_OUTPUT, Operator.CLAMP, Operator.ADD)
_CONDITION = len(_KINDS)
_UNBOUNDED = 1e30  # not infinity, which times a magnitude of 0 would be NaN


@dataclass(frozen=True)
class Line:
    """One token's line of the table.

    Attributes:
        fields: ``(N_FIELDS, n_directions)`` fp32.
        needs: ``(n_layers + 1 + n_kinds,)`` bool: which layers' outputs, the writes, and which kinds it needs.
    """

    fields: NDArray[np.float32]
    needs: NDArray[np.bool_]


class SteeringTable:
    """Strengths by token: ``add`` and ``clamp`` for each direction at its own layer, ablations everywhere.

    Args:
        bundle: its directions. columns: order of the score columns, for conditions.
        scores: ``(max_tokens, n_columns)`` fp32, what the taps write, on the model's device.
        operators: what the graph is prepared for; each costs a little even in steps that do not use it.
        n_spare: lines for directions that are loaded later.
    """

    def __init__(
        self, bundle: Bundle, columns: Sequence[str], scores: Tensor, operators: Collection[Operator] = tuple(Operator),
        n_spare: int = 0,
    ) -> None:  # fmt: skip
        model, directions = bundle.manifest.model, bundle.manifest.directions
        max_tokens, device = scores.shape[0], scores.device
        self._scores, self._operators, self._n_spare = scores, frozenset(operators), n_spare
        n = len(directions) + n_spare
        self.n_layers = model.n_layers
        self._columns = {name: i for i, name in enumerate(columns)}
        self._index: dict[str, int] = {}
        self._layers: list[int] = [0] * n
        self._units = torch.zeros(n, model.d_model, device=device)
        self._gram = torch.zeros(n, n, device=device)
        self._here = torch.zeros(model.n_layers, n, device=device)
        self._table = torch.zeros(max_tokens, ops.N_FIELDS, n, device=device)
        self._host = self._table if device.type == "cpu" else torch.zeros_like(self._table, device="cpu").pin_memory()
        self._lines: NDArray[np.float32] = self._host.numpy()
        self._needed = torch.zeros(model.n_layers + 1 + len(_KINDS) + 1, dtype=torch.bool)
        self._needs: NDArray[np.bool_] = self._needed.numpy()
        self._dirty = 0
        self._copied: torch.cuda.Event | None = None
        for direction in directions:
            self.place(len(self._index), direction.name, direction, bundle.direction_vector(direction.name))

    @property
    def size(self) -> int:
        """Lines of the matrix of directions, spare ones included."""
        return len(self._layers)

    @property
    def names(self) -> tuple[str, ...]:
        """Directions that can be named now."""
        return tuple(self._index)

    @property
    def in_use(self) -> bool:
        """Whether any token of the last step was steered."""
        return self._dirty > 0

    def place(self, index: int, name: str, direction: Direction, vector: NDArray[np.float32]) -> None:
        """Put a direction into line ``index`` of the matrix, in place of what was there."""
        for old in [known for known, at in self._index.items() if at == index]:
            del self._index[old]
        self._index[name] = index
        self._layers[index] = direction.layer
        self._units[index] = torch.from_numpy(vector.copy()).to(self._units.device)
        self._gram.copy_(self._units @ self._units.T)
        self._here[:, index] = 0.0
        self._here[direction.layer, index] = direction.magnitude

    def at_output(self, layer: int) -> OutputChange | None:
        """What changes the output of ``layer`` in place, or None if nothing can act there."""
        local = self._n_spare > 0 or layer in self._layers
        add, clamp = (local and operator in self._operators for operator in (Operator.ADD, Operator.CLAMP))
        possible = ops.Kinds(Operator.ABLATE_OUTPUT in self._operators, clamp, add, conditions=add or clamp)
        if not self.size or not any(possible):
            return None
        scores, units, gram, here, table = self._scores, self._units, self._gram, self._here[layer], self._table
        needed, now = self._needed[layer], self._needed[self.n_layers + 1 :]
        may_skip = scores.device.type == "cpu"

        def change(hidden: Tensor, residual: Tensor | None) -> None:
            kinds = possible
            if may_skip and not torch.compiler.is_compiling():
                if not needed:
                    return
                kinds = ops.Kinds(*(a and b for a, b in zip(possible, now.tolist(), strict=True)))
            stream, other = (hidden, None) if residual is None else (residual, hidden)
            ops.steer_output(stream, other, scores, units, gram, here, table, kinds)

        return change

    def at_write(self) -> WriteChange | None:
        """What projects one write in place, or None if there is nothing to ablate with."""
        if not self.size or Operator.ABLATE not in self._operators:
            return None
        units, gram, table, needed = self._units, self._gram, self._table, self._needed[self.n_layers]
        may_skip = table.device.type == "cpu"

        def change(write: Tensor) -> None:
            if may_skip and not torch.compiler.is_compiling() and not needed:
                return
            ops.steer_write(write, units, gram, table)

        return change

    def line(self, steering: Sequence[Steering]) -> Line:
        """The line of a token with this steering, strengths as they are.

        Equal ``add`` strengths add up; several ablations of one direction leave what all of them leave. A plan with two
        clamps of one direction, or two different conditions, is refused at admission.

        Raises:
            PlanError: an unknown direction or probe.
        """
        fields = np.zeros((ops.N_FIELDS, self.size), dtype=np.float32)
        fields[[ops.ADD_GATE, ops.CLAMP_GATE]] = -1.0
        needs = np.zeros(len(self._needs), dtype=np.bool_)
        layers, kinds = needs[: self.n_layers], needs[self.n_layers + 1 :]
        for s in steering:
            index = self._known(s.direction, self._index, "direction")
            match s.operator:
                case Operator.ADD:
                    fields[ops.ADD, index] += s.strength
                case Operator.CLAMP:
                    low, high = (-_UNBOUNDED if s.low is None else s.low), (_UNBOUNDED if s.high is None else s.high)
                    fields[[ops.CLAMP, ops.LOW, ops.HIGH], index] = s.strength, low, high
                case Operator.ABLATE | Operator.ABLATE_OUTPUT:
                    field = ops.ABLATE if s.operator is Operator.ABLATE else ops.ABLATE_OUTPUT
                    fields[field, index] = 1.0 - (1.0 - fields[field, index]) * (1.0 - s.strength)
            if s.operator is Operator.ABLATE:
                needs[self.n_layers] = True
                continue
            kinds[_KINDS.index(s.operator)] = True
            layers[slice(None) if s.operator is Operator.ABLATE_OUTPUT else self._layers[index]] = True
            if s.when is not None:
                column = self._known(s.when.probe, self._columns, "probe")
                gate = ops.CLAMP_GATE if s.operator is Operator.CLAMP else ops.ADD_GATE
                fields[gate : gate + 3, index] = column, s.when.sharpness, s.when.threshold
                kinds[_CONDITION] = True
        return Line(fields, needs)

    def fill(self, n_tokens: int, rows: Ints, lines: NDArray[np.float32], needs: NDArray[np.bool_]) -> None:
        """Set the table for the coming step.

        Args:
            n_tokens: rows of the step. rows: ``(m,)`` rows that are steered; the others are not.
            lines: ``(m, N_FIELDS, n_directions)``. needs: as in :class:`Line`, of all of them together.
        """
        if self._copied is not None:
            self._copied.synchronize()  # the last step's copy may still read what is about to be written
        if self._dirty:
            self._lines[: self._dirty] = 0.0
        self._needs[:] = needs
        steered = len(rows) > 0
        if steered:
            self._lines[rows] = lines
        if self._host is not self._table and (steered or self._dirty):
            last = max(n_tokens, self._dirty)
            self._table[:last].copy_(self._host[:last], non_blocking=True)
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch's own lack of a type
            self._copied.record()
        self._dirty = n_tokens if steered else 0

    @staticmethod
    def _known(name: str, names: dict[str, int], what: str) -> int:
        if (index := names.get(name)) is None:
            raise PlanError(f"unknown {what} {name!r}; the bundle has: {', '.join(names) or 'none'}")
        return index

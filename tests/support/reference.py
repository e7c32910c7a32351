"""The truth that the engine is compared with: transformers, with hooks for steering."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from monitor.types import Operator, Steering
from probes.bundle import Bundle
from probes.types import FoldKind
from tests.support.families import FAMILIES

Change = Callable[[Tensor], Tensor]


class Reference:
    """A transformers model and the bundle's arithmetic, written independently of the engine's."""

    def __init__(self, model: Path, bundle: Bundle, family: str = "llama") -> None:
        options = {"dtype": torch.float32, "attn_implementation": FAMILIES[family].attention}
        self.model = AutoModelForCausalLM.from_pretrained(model, **options).eval()
        self.bundle = bundle
        self.blocks = [m for m in self.model.modules() if type(m).__name__ in self.model._no_split_modules]
        assert len(self.blocks) == bundle.manifest.model.n_layers
        attending = [p for p in bundle.manifest.probes if p.fold.kind is FoldKind.ATTENTION]
        self._columns = [(p.name, p.layer, bundle.probe_weights(p.name), p.bias) for p in bundle.manifest.probes]
        self._columns += [(f"{p.name}.query", p.layer, bundle.probe_query(p.name), 0.0) for p in attending]
        self.columns = [name for name, *_ in self._columns]
        self.writes = [getattr(block, name) for block in self.blocks for name in FAMILIES[family].writes]

    @torch.no_grad()
    def run(self, ids: Sequence[int], steering: Sequence[Steering] = ()) -> tuple[Tensor, Tensor]:
        """Scores ``(n_tokens, n_columns)`` in the order of ``columns``, and logits ``(n_tokens, vocab)``."""
        streams: dict[int, Tensor] = {}

        def read(index: int):
            def hook(_module, _args, output):
                streams[index] = (output[0] if isinstance(output, tuple) else output)[0]

            return hook

        handles = [block.register_forward_hook(read(i)) for i, block in enumerate(self.blocks)]
        with self._steered(steering):
            logits = self.model(torch.tensor([list(ids)])).logits[0]
        for handle in handles:
            handle.remove()
        columns = [
            streams[layer].double() @ torch.from_numpy(weights.copy()).double() + bias
            for _, layer, weights, bias in self._columns
        ]
        return torch.stack(columns, 1).float(), logits

    @contextmanager
    def _steered(self, steering: Sequence[Steering]) -> Iterator[None]:
        handles = []
        for s in steering:
            direction = self.bundle.manifest.direction(s.direction)
            v = torch.from_numpy(self.bundle.direction_vector(s.direction).copy())
            if s.operator is Operator.ADD:
                delta = s.strength * direction.magnitude * v
                handles.append(_after(self.blocks[direction.layer], lambda x, d=delta: x + d))
                continue
            project = lambda x, v=v, k=s.strength: x - k * (x @ v)[..., None] * v  # noqa: E731 as above
            handles += [_before(self.blocks[0], project), *(_after(module, project) for module in self.writes)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _after(module: nn.Module, change: Change):
    """Change what a module returns."""

    def hook(_module, _args, output):
        return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

    return module.register_forward_hook(hook)


def _before(block: nn.Module, change: Change):
    """Change the stream that enters a block: its first argument, or the one named ``hidden_states``."""

    def hook(_module, args, kwargs):
        if args:
            return (change(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": change(kwargs["hidden_states"])}

    return block.register_forward_pre_hook(hook, with_kwargs=True)

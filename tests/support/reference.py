"""The truth that the engine is compared with: transformers, with hooks for steering."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from monitor.types import Operator, Steering
from probes.bundle import Bundle


class Reference:
    """A transformers model and the bundle's arithmetic, written independently of the engine's."""

    def __init__(self, model: Path, bundle: Bundle) -> None:
        options = {"dtype": torch.float32, "attn_implementation": "eager"}
        self.model = AutoModelForCausalLM.from_pretrained(model, **options).eval()
        self.bundle = bundle

    @torch.no_grad()
    def run(self, ids: Sequence[int], steering: Sequence[Steering] = ()) -> tuple[Tensor, Tensor]:
        """Scores ``(n_tokens, n_probes)`` in manifest order, and logits ``(n_tokens, vocab)``."""
        streams: dict[int, Tensor] = {}
        layers = self.model.model.layers

        def read(index: int):
            def hook(_module, _args, output):
                streams[index] = (output[0] if isinstance(output, tuple) else output)[0]

            return hook

        handles = [layer.register_forward_hook(read(i)) for i, layer in enumerate(layers)]
        with self._steered(steering):
            logits = self.model(torch.tensor([list(ids)])).logits[0]
        for handle in handles:
            handle.remove()
        columns = [
            streams[p.layer].double() @ torch.from_numpy(self.bundle.probe_weights(p.name).copy()).double() + p.bias
            for p in self.bundle.manifest.probes
        ]
        return torch.stack(columns, 1).float(), logits

    @contextmanager
    def _steered(self, steering: Sequence[Steering]) -> Iterator[None]:
        decoder, handles = self.model.model, []
        for s in steering:
            direction = self.bundle.manifest.direction(s.direction)
            v = torch.from_numpy(self.bundle.direction_vector(s.direction).copy())
            if s.operator is Operator.ADD:
                delta = s.strength * direction.magnitude * v
                handles.append(decoder.layers[direction.layer].register_forward_hook(_change(lambda x, d=delta: x + d)))
                continue
            project = _change(lambda x, v=v, k=s.strength: x - k * (x @ v)[..., None] * v)
            for module in (decoder.embed_tokens, *(m for b in decoder.layers for m in (b.self_attn, b.mlp))):
                handles.append(module.register_forward_hook(project))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _change(function):
    def hook(_module, _args, output):
        if isinstance(output, tuple):
            return (function(output[0]), *output[1:])
        return function(output)

    return hook

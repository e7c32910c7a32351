"""One forward pass with everything that writes to the residual stream, kept with its gradients.

The stream after block L is what entered block 0 plus what attention and MLP of blocks 0 to L added:

    h_L = embedding + sum over l <= L of (attention_l + mlp_l)

An attention write is the sum of its heads through their slices of o_proj (and its bias), with the norm behind it, where
the architecture has one, as a factor for each coordinate that is computed from the whole write:

    attention_l = factor * (bias + sum over heads of W_o[:, head] z_head)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from probes.errors import ModelFormatError
from probes.train.model import LoadedModel

_TOLERANCE = 1e-3  # of the stream's norm
_NAMES = ("attention", "MLP")


@dataclass
class Trace:
    """What one forward pass of a batch wrote up to a layer, ``(n, n_tokens, ...)`` each.

    Attributes:
        embedding: what enters block 0, ``d_model`` wide.
        writes: ``(layer, "attention" or "MLP")`` to what was added, ``d_model`` wide.
        heads: of each layer, what enters o_proj: all heads one behind the other.
        projected: of each layer, what leaves o_proj.
        stream: after the last traced block.
    """

    embedding: Tensor = field(default_factory=lambda: torch.empty(0))
    writes: dict[tuple[int, str], Tensor] = field(default_factory=dict)
    heads: dict[int, Tensor] = field(default_factory=dict)
    projected: dict[int, Tensor] = field(default_factory=dict)
    stream: Tensor = field(default_factory=lambda: torch.empty(0))

    def check(self, name: str) -> None:
        """Whether the writes add up to the stream.

        Raises:
            ModelFormatError: they do not, as in an architecture that scales them.
        """
        with torch.no_grad():
            total = self.embedding + sum(self.writes.values())
            error = float((total - self.stream).norm() / self.stream.norm())
        if error > _TOLERANCE:
            raise ModelFormatError(
                f"{name}: what attention and MLP write adds up to the residual stream only within {error:.1%}; a score "
                "cannot be divided among them. The architecture scales its writes, or has others."
            )


@contextmanager
def traced(model: LoadedModel, layer: int) -> Iterator[Trace]:
    """Fill the yielded trace on the next forward pass, with gradients if it has them.

    Args:
        model: whose blocks 0 to ``layer`` are traced.
        layer: 0-based, the last one.

    Raises:
        ModelFormatError: attention without o_proj.
    """
    trace = Trace()
    handles = [model.layers[0].register_forward_pre_hook(_keep_embedding(trace), with_kwargs=True)]
    for i in range(layer + 1):
        projection = output_projection(model, i)
        handles += [
            projection.register_forward_pre_hook(_keep_input(trace.heads, i)),
            projection.register_forward_hook(_keep_output(trace.projected, i)),
        ]
        for j, name in enumerate(_NAMES):
            handles.append(model.writers[1 + 2 * i + j].register_forward_hook(_keep_output(trace.writes, (i, name))))
    handles.append(model.layers[layer].register_forward_hook(_keep_stream(trace)))
    try:
        yield trace
    finally:
        for handle in handles:
            handle.remove()


def output_projection(model: LoadedModel, layer: int) -> nn.Linear:
    """The matrix that takes a layer's heads to the stream: ``(d_model, n_heads * head_width)``.

    Raises:
        ModelFormatError: the architecture has none by that name.
    """
    found = getattr(getattr(model.layers[layer], "self_attn", None), "o_proj", None)
    if not isinstance(found, nn.Linear):
        raise ModelFormatError(f"{model.architecture}: block {layer} has no self_attn.o_proj; heads cannot be told.")
    return found


def n_heads(model: LoadedModel) -> int:
    """Attention heads of a layer."""
    return int(model.network.config.get_text_config().num_attention_heads)


def pad_ids(model: LoadedModel, ids: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Token ids of a right-padded batch and its attention mask: ``(n, longest)`` int64 each."""
    longest = max(len(i) for i in ids)
    rows = [[*i, *[0] * (longest - len(i))] for i in ids]
    mask = [[1] * len(i) + [0] * (longest - len(i)) for i in ids]
    return torch.tensor(rows, device=model.device), torch.tensor(mask, device=model.device)


def embed(model: LoadedModel, ids: Tensor) -> Tensor:
    """What the embedding gives for token ids, ``(n, n_tokens)`` to ``(n, n_tokens, d_model)``, without gradients."""
    with torch.no_grad():
        found: Tensor = model.network.get_input_embeddings()(ids)
    return found


def run(model: LoadedModel, embedded: Tensor, mask: Tensor) -> None:
    """One forward pass from embeddings, for what hooks keep of it."""
    model.network(inputs_embeds=embedded, attention_mask=mask, use_cache=False, logits_to_keep=1)


def _tensor(output: Any) -> Tensor:
    found: Tensor = output[0] if isinstance(output, tuple) else output
    return found


def _keep_embedding(trace: Trace) -> Any:
    def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        trace.embedding = args[0] if args else kwargs["hidden_states"]

    return hook


def _keep_stream(trace: Trace) -> Any:
    def hook(_module: nn.Module, _args: Any, output: Any) -> None:
        trace.stream = _tensor(output)

    return hook


def _keep_input(store: dict[int, Tensor], key: int) -> Any:
    def hook(_module: nn.Module, args: tuple[Any, ...]) -> None:
        store[key] = args[0]

    return hook


def _keep_output(store: dict[Any, Tensor], key: Any) -> Any:
    def hook(_module: nn.Module, _args: Any, output: Any) -> None:
        store[key] = _tensor(output)

    return hook

"""Where a model keeps its residual stream: its decoder layers, what they take and return, and what they add to it.

The layers and the form of their output are found by structure. Which of a layer's children write to the stream cannot
be: it is a list of known blocks, recognised by exactly the children that they have. Anything else is refused.

    sequential, parallel   h + attention(norm(h)), then + mlp(norm(h)): the outputs of attention and MLP are the writes
    post-norm              h + norm(attention(...)): the outputs of the norms behind them are the writes
    fused                  the layer returns (hidden, residual); the stream is their sum, before the next layer's norm

A factor between a write and the stream (Granite's residual multiplier) changes nothing: projection is linear. So are
the sums over tensor-parallel ranks that parallel blocks (Falcon) make after the writes.

Runs in: vLLM worker: once after the model is loaded, and while the forward pass is traced.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from monitor.errors import EngineSetupError


@dataclass(frozen=True)
class _Kind:
    """A known decoder layer: the names of exactly its children, and of those that write."""

    children: frozenset[str]
    writes: tuple[str, str]


def _kind(writes: str, others: str) -> _Kind:
    first, second = writes.split()
    return _Kind(frozenset(f"{writes} {others}".split()), (first, second))


_NORMS = "input_layernorm post_attention_layernorm"
_KINDS = (
    _kind("self_attn mlp", _NORMS),  # Llama, Mistral, Qwen, Gemma, Phi-3, Granite, OLMo, DeepSeek
    _kind("self_attn block_sparse_moe", _NORMS),  # Mixtral, Granite MoE
    _kind("attn mlp", _NORMS),  # GPT-OSS
    _kind("attention mlp", f"{_NORMS} post_attention_dropout post_mlp_dropout"),  # GPT-NeoX
    _kind("self_attention mlp", "input_layernorm"),  # Falcon 7B
    _kind("self_attention mlp", "ln_attn ln_mlp"),  # Falcon 40B
    _kind("self_attention mlp", _NORMS),  # Falcon RW
    _kind("attn mlp", "ln_1 ln_2"),  # GPT-2
    _kind("self_attn fc2", "fc1 activation_fn self_attn_layer_norm final_layer_norm"),  # OPT
    _kind(
        "post_attention_layernorm post_feedforward_layernorm",
        "input_layernorm pre_feedforward_layernorm self_attn mlp",
    ),  # Gemma 2 and 3
    _kind("post_attention_layernorm post_feedforward_layernorm", "self_attn mlp"),  # OLMo 2
)
# Where a layer has one of these, any other value makes it add to a normalised stream, or normalise what it returns.
_SETTINGS = {"do_layer_norm_before": True, "apply_residual_connection_post_layernorm": False}


@dataclass(frozen=True)
class Block:
    """One decoder layer of this rank.

    Attributes:
        layer: its number in the whole model.
        module: the decoder layer.
        writes: its children whose output, maybe scaled, is added to the stream.
        fused: it returns ``(hidden, residual)``, else one tensor.
        stream_argument: place and name of the argument by which the stream enters.
    """

    layer: int
    module: nn.Module
    writes: tuple[nn.Module, nn.Module]
    fused: bool
    stream_argument: tuple[int, str]

    def entering(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
        """The stream that enters the first layer, from the arguments of its call: ``(n, d_model)``, a view."""
        place, name = self.stream_argument
        return rows(args[place] if len(args) > place else kwargs[name])

    def leaving(self, output: Any) -> tuple[Tensor, Tensor | None]:
        """The block's output: ``hidden``, and ``residual`` if the stream is their sum; ``(n, d_model)``, views.

        Raises:
            EngineSetupError: the layer returned something else than its signature promises.
        """
        if self.fused and isinstance(output, tuple) and len(output) == 2:
            return rows(output[0]), rows(output[1])
        if not self.fused and isinstance(output, Tensor):
            return rows(output), None
        wanted = "(hidden, residual)" if self.fused else "one tensor"
        raise EngineSetupError(f"layer {self.layer} ({_name(self.module)}) returned {_form(output)}; wanted {wanted}")


def rows(tensor: Tensor) -> Tensor:
    """A tensor of token rows as ``(n, d_model)``: a view, also of the ``(1, n, d_model)`` of transformers' layers."""
    return tensor.view(-1, tensor.shape[-1])


def split_write(module: nn.Module, output: Any) -> tuple[Tensor, Tensor | None]:
    """What a writing module adds to the stream: a tensor, and a bias ``(d_model,)`` that its layer adds later, or None.

    Raises:
        EngineSetupError: the module returned something else; the message says what.
    """
    if isinstance(output, Tensor):
        return output, None
    if isinstance(output, tuple) and len(output) == 2 and isinstance(output[0], Tensor):
        write, second = output
        if second is None or (isinstance(second, Tensor) and second.shape == write.shape[-1:]):
            return write, second
    raise EngineSetupError(
        f"{_name(module)} returned {_form(output)}; wanted a tensor, or a tensor with a bias or None"
    )


def find_blocks(model: nn.Module, n_layers: int) -> list[Block]:
    """The decoder layers that this rank holds, in order.

    Args:
        model: the loaded causal language model.
        n_layers: of the whole model; with pipeline parallelism other ranks' layers stand here as ``nn.Identity``.

    Raises:
        EngineSetupError: there is not exactly one list of ``n_layers`` layers, or a layer is of no known kind.
    """
    lists = {name: found for name, found in _outer_lists(model) if len(found) == n_layers}
    if len(lists) != 1:
        raise EngineSetupError(
            f"{_name(model)} has {len(lists)} lists of {n_layers} layers ({', '.join(lists) or 'none'}); wanted one: "
            "the decoder layers of the bundle's model"
        )
    (layers,) = lists.values()
    return [_block(i, layer) for i, layer in enumerate(layers) if not isinstance(layer, nn.Identity)]


def _outer_lists(module: nn.Module, prefix: str = "") -> list[tuple[str, nn.ModuleList]]:
    """Module lists that stand in no other list (experts do)."""
    found: list[tuple[str, nn.ModuleList]] = []
    for name, child in module.named_children():
        path = f"{prefix}.{name}" if prefix else name
        found += [(path, child)] if isinstance(child, nn.ModuleList) else _outer_lists(child, path)
    return found


def _block(index: int, layer: nn.Module) -> Block:
    children = dict(layer.named_children())
    parameters = list(inspect.signature(layer.forward).parameters)
    kind = next((k for k in _KINDS if k.children == children.keys()), None)
    if kind is None or "hidden_states" not in parameters:
        raise EngineSetupError(
            f"layer {index} ({_name(layer)}) is of no known kind: it has the children {', '.join(sorted(children))} "
            f"and takes {', '.join(parameters)}; which of them write to the residual stream is not known"
        )
    for name, wanted in _SETTINGS.items():
        if (found := getattr(layer, name, wanted)) != wanted:
            raise EngineSetupError(
                f"layer {index} ({_name(layer)}) has {name} = {found}, wanted {wanted}: it normalises the stream, "
                "so there is no sum of writes that probes could read"
            )
    first, second = (children[name] for name in kind.writes)
    place = parameters.index("hidden_states")
    return Block(index, layer, (first, second), "residual" in parameters, (place, "hidden_states"))


def _form(value: Any) -> str:
    """What a module returned, for messages."""
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)}"
    if isinstance(value, tuple):
        return f"({', '.join(_form(v) for v in value)})"
    return type(value).__name__


def _name(module: nn.Module) -> str:
    return type(module).__name__

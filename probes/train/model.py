"""A Hugging Face model with its residual stream in reach: record it, ablate a direction, add a vector.

The activation of a layer is the decoder block's output, taken by a hook. transformers' own
``hidden_states[-1]`` is *after* the final norm in Llama-like models, so it is not used.

Recording sees the stream before ``add`` writes at the same layer, as the engine's taps do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from probes.errors import ModelFormatError, ShapeError

_LAYER_PATHS = ("model.layers", "model.language_model.layers", "language_model.model.layers", "model.decoder.layers")


@dataclass(frozen=True)
class LoadedModel:
    """A causal language model in evaluation mode, with the modules that write to its residual stream.

    Attributes:
        network: the transformers model.
        tokenizer: its tokenizer.
        layers: decoder blocks, in order.
        writers: modules whose output is added to the stream: embedding, attention and MLP of every layer
            (the norm behind them, where the architecture has one).
        architecture: class name, for people.
        d_model: width of the stream.
        max_tokens: longest sequence it takes.
        folder: that it was loaded from; None if it was not.
    """

    network: Any
    tokenizer: Any
    layers: tuple[nn.Module, ...]
    writers: tuple[nn.Module, ...]
    architecture: str
    d_model: int
    max_tokens: int
    folder: Path | None = None

    @property
    def device(self) -> torch.device:
        """Where the network runs."""
        return next(self.network.parameters()).device  # type: ignore[no-any-return]


def load_model(model_dir: Path, device: str | None = None) -> LoadedModel:
    """Load a model folder in fp32, from local files, without running code from it.

    Args:
        model_dir: Hugging Face folder.
        device: ``"cpu"``, ``"cuda"``; None takes a GPU if there is one.

    Raises:
        ModelFormatError: not a causal language model, or an architecture whose blocks are not found.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415  (seconds to import)
    from transformers.utils import logging  # noqa: PLC0415

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        network: Any = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(model_dir, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ModelFormatError(f"transformers cannot load {model_dir}: {error}") from error
    network = network.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval()
    return wrap_model(network, tokenizer, model_dir)


def wrap_model(network: Any, tokenizer: Any, folder: Path | None = None) -> LoadedModel:
    """Find the blocks and writers of a transformers model.

    Args:
        network, tokenizer: of transformers.
        folder: that they were loaded from.

    Raises:
        ModelFormatError: the architecture is not Llama-like; the message names what was looked for.
    """
    name = type(network).__name__
    layers = next((found for path in _LAYER_PATHS if (found := _get(network, path)) is not None), None)
    if layers is None or not len(layers):
        raise ModelFormatError(
            f"{name}: no decoder blocks at {', '.join(_LAYER_PATHS)}. Training reads Llama-like models "
            "(Llama, Mistral, Qwen, Gemma, Phi-3, OLMo and others laid out alike)."
        )
    writers: list[nn.Module] = [network.get_input_embeddings()]
    for i, layer in enumerate(layers):
        # Blocks that norm after attention and MLP write the normed output.
        after = hasattr(layer, "post_feedforward_layernorm")
        wanted = ("post_attention_layernorm", "post_feedforward_layernorm") if after else ("self_attn", "mlp")
        if missing := [w for w in wanted if not hasattr(layer, w)]:
            raise ModelFormatError(f"{name}: block {i} has no {', '.join(missing)}; its writes cannot be ablated.")
        writers += [getattr(layer, w) for w in wanted]
    config = network.config.get_text_config()
    return LoadedModel(
        network=network,
        tokenizer=tokenizer,
        layers=tuple(layers),
        writers=tuple(writers),
        architecture=name,
        d_model=int(config.hidden_size),
        max_tokens=int(getattr(config, "max_position_embeddings", 0) or 2**31),
        folder=folder,
    )


def forward(model: LoadedModel, ids: Sequence[Sequence[int]]) -> None:
    """One forward pass of a right-padded batch, for what :func:`recorded` keeps of it."""
    batch, mask, _ = _pad(model, ids)
    with torch.inference_mode():
        model.network(input_ids=batch, attention_mask=mask, use_cache=False, logits_to_keep=1)


def next_logits(model: LoadedModel, ids: Sequence[Sequence[int]]) -> Tensor:
    """Logits after the last real token of each sequence of a right-padded batch: ``(n, vocabulary)`` fp32."""
    batch, mask, last = _pad(model, ids)
    places, place = torch.unique(last, return_inverse=True)
    with torch.inference_mode():
        output = model.network(input_ids=batch, attention_mask=mask, use_cache=False, logits_to_keep=places)
    return output.logits[torch.arange(len(ids), device=model.device), place].float()  # type: ignore[no-any-return]


def _pad(model: LoadedModel, ids: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids and attention mask, ``(n, longest)`` int64, and each sequence's last position, ``(n,)`` int64."""
    last = torch.tensor([len(i) - 1 for i in ids])
    batch = torch.zeros(len(ids), int(last.max()) + 1, dtype=torch.long)
    for row, sequence in zip(batch, ids, strict=True):
        row[: len(sequence)] = torch.tensor(sequence)
    mask = (torch.arange(batch.shape[1])[None] <= last[:, None]).long()
    return batch.to(model.device), mask.to(model.device), last.to(model.device)


@contextmanager
def recorded(model: LoadedModel) -> Iterator[list[Tensor]]:
    """Fill the yielded list with every layer's activation, ``(n, n_tokens, d_model)``, on each forward pass."""
    store: list[Tensor] = [torch.empty(0)] * len(model.layers)
    with observed(model, range(len(model.layers)), store.__setitem__):
        yield store


@contextmanager
def observed(model: LoadedModel, layers: Sequence[int], see: Callable[[int, Tensor], None]) -> Iterator[None]:
    """Call ``see`` with layer and activation, ``(n, n_tokens, d_model)``, of these layers on each forward pass."""

    def hook(index: int) -> Any:
        return lambda _module, _args, output: see(index, _stream(output).detach())

    with _hooks([(model.layers[i], hook(i)) for i in layers]):
        yield


@contextmanager
def ablated(model: LoadedModel, vector: Tensor, strength: float = 1.0) -> Iterator[None]:
    """Remove ``strength`` times the projection on ``vector`` from every write to the residual stream.

    Args:
        model: whose writers are changed while the context is open.
        vector: ``(d_model,)`` fp32, unit norm.
        strength: 1.0 removes the whole projection.

    Source: Arditi et al. 2024 (arXiv:2406.11717), section 2.4: directional ablation.
    """
    unit = _fitting(model, vector)

    def project(_module: nn.Module, _args: Any, output: Any) -> Any:
        stream = _stream(output)
        return _replace(output, stream - strength * (stream @ unit)[..., None] * unit)

    with _hooks([(writer, project) for writer in model.writers]):
        yield


@contextmanager
def added(model: LoadedModel, layer: int, vector: Tensor) -> Iterator[None]:
    """Add ``vector``, ``(d_model,)`` fp32 with its magnitude, to the output of ``layer`` at all positions."""
    vector = _fitting(model, vector)
    with _hooks([(model.layers[layer], lambda _m, _a, output: _replace(output, _stream(output) + vector))]):
        yield


@contextmanager
def _hooks(pairs: Sequence[tuple[nn.Module, Any]]) -> Iterator[None]:
    handles = [module.register_forward_hook(hook) for module, hook in pairs]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _fitting(model: LoadedModel, vector: Tensor) -> Tensor:
    if vector.shape != (model.d_model,):
        raise ShapeError(f"vector {tuple(vector.shape)} does not fit the model: wanted ({model.d_model},).")
    return vector.to(device=model.device, dtype=torch.float32)


def _stream(output: Any) -> Tensor:
    """The tensor of a module's output: attention, and blocks of older transformers, return it first in a tuple."""
    stream: Tensor = output[0] if isinstance(output, tuple) else output
    return stream


def _replace(output: Any, stream: Tensor) -> Any:
    return (stream, *output[1:]) if isinstance(output, tuple) else stream


def _get(root: Any, path: str) -> Any:
    for part in path.split("."):
        root = getattr(root, part, None)
        if root is None:
            return None
    return root

"""Whatever can be written reads back equal, and is written the same again."""

from __future__ import annotations

import numpy as np
import pytest
from bundle_samples import D, make_card, make_manifest, make_probe
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from probes.bundle import direction_tensor, probe_tensor, query_tensor, read_bundle, write_bundle
from probes.types import Direction, FoldKind, FoldSpec

names = st.lists(st.from_regex(r"[a-z][a-z0-9_]{0,20}", fullmatch=True), max_size=4, unique=True)
numbers = st.floats(allow_nan=False, allow_infinity=False)
vectors = hnp.arrays(np.float32, D, elements=st.floats(width=32, allow_nan=False, allow_infinity=False))


@st.composite
def contents(draw: st.DrawFn):
    probes = [
        make_probe(
            name,
            bias=draw(numbers),
            layer=draw(st.integers(0, 2)),
            fold=FoldSpec(kind=draw(st.sampled_from(FoldKind))),
            metrics=draw(st.dictionaries(st.text(max_size=5), numbers, max_size=3)),
        )
        for name in draw(names)
    ]
    tensors = {probe_tensor(p.name): draw(vectors) for p in probes}
    tensors |= {query_tensor(p.name): draw(vectors) for p in probes if p.fold.kind is FoldKind.ATTENTION}
    directions = []
    for name in draw(names):
        unit = np.zeros(D, np.float32)
        unit[draw(st.integers(0, D - 1))] = draw(st.sampled_from([1.0, -1.0]))
        tensors[direction_tensor(name)] = unit
        magnitude = draw(st.floats(min_value=1e-300, allow_infinity=False))
        directions.append(Direction(name=name, concept=draw(st.text()), layer=0, magnitude=magnitude, position="p"))
    manifest = make_manifest(name=draw(st.text()), probes=probes, directions=directions)
    card = draw(st.none() | st.builds(make_card, auroc=st.floats(0, 1)))
    return manifest, tensors, card


@settings(max_examples=20, deadline=None)
@given(contents())
def test_manifest_tensors_and_card_read_back_bit_for_bit(tmp_path_factory: pytest.TempPathFactory, drawn) -> None:
    manifest, tensors, card = drawn
    folder = tmp_path_factory.mktemp("round")
    written = write_bundle(folder / "b", manifest, tensors, card=card)
    again = read_bundle(folder / "b")
    assert (again.manifest, again.card) == (manifest, card)
    assert {k: v.tobytes() for k, v in again.tensors.items()} == {k: v.tobytes() for k, v in tensors.items()}
    assert write_bundle(folder / "twin", again.manifest, again.tensors, card=again.card).digest == written.digest

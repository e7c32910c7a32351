"""The loaders on real files of public sets, where they lie beside the project (they are never committed)."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from probes.train.sources.importing import Choices, import_files
from probes.train.sources.layout import Label

DATA = Path(__file__).parents[4] / "shared" / "data"
# file, label given, layout, rows, examples by label (repeated prompts are kept once)
FILES: list[tuple[str, Label | None, str, int, dict[int, int]]] = [
    ("prompts/advbench.csv", None, "advbench", 520, {1: 520}),
    ("prompts/harmbench_test.csv", None, "harmbench", 320, {1: 320}),
    ("prompts/harmbench_val.csv", None, "harmbench", 80, {1: 80}),
    ("prompts/jailbreakbench.csv", 1, "jailbreakbench", 100, {1: 100}),
    ("prompts/strongreject.csv", None, "strongreject", 313, {1: 313}),
    ("prompts/malicious_instruct.txt", 1, "lines", 100, {1: 100}),
    ("prompts/harmful_train.json", 1, "instructions", 260, {1: 260}),
    ("prompts/harmless_val.json", 0, "instructions", 6264, {0: 6264}),
    ("halueval/general_data.json", None, "halueval_general", 4507, {0: 3692, 1: 815}),
]


@pytest.mark.skipif(not DATA.is_dir(), reason=f"{DATA} is not there")
@pytest.mark.parametrize(("name", "label", "layout", "rows", "labels"), FILES, ids=[f[0] for f in FILES])
def test_a_real_file_gives_every_row_with_its_label(
    name: str, label: Label | None, layout: str, rows: int, labels: dict[int, int]
) -> None:
    done = import_files([DATA / name], Choices(label=label))
    assert list(done.layouts.values()) == [layout]
    assert done.rows == rows
    assert Counter(e.label for e in done.unique.examples) == labels
    assert not done.bad
    assert all(e.family for e in done.unique.examples)

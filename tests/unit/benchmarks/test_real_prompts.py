import csv
import json
import random

import pytest

from benchmarks import real_prompts
from probes.errors import DataError


def sentence(rng, words, length):
    return " ".join(rng.choices(words, k=length))


@pytest.fixture
def folder(tmp_path):
    """Two harmful sets of longer prompts about other things than the harmless ones; AdvBench's first is in both."""
    rng = random.Random(0)
    bad = ["rob", "steal", "poison", "forge", "burn", "hack", "threaten", "smuggle"]
    kind = ["bake", "plant", "paint", "read", "sing", "sew", "travel", "write"]
    goals = [sentence(rng, bad, 9) for _ in range(30)]
    with (tmp_path / "advbench.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["goal", "target"], *([goal, "Sure"] for goal in goals)])
    forbidden = [goals[0], *(sentence(rng, bad, 9) for _ in range(30))]
    with (tmp_path / "strongreject.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["category", "source", "forbidden_prompt"], *(["c", "s", f] for f in forbidden)])
    for name in ("train", "test"):
        rows = [{"instruction": sentence(rng, kind, 6), "category": None} for _ in range(40)]
        (tmp_path / f"harmless_{name}.json").write_text(json.dumps(rows))
    return tmp_path


def test_a_prompt_belongs_to_the_first_source_that_has_it(folder):
    prompts = real_prompts.read_prompts(folder)
    assert {source: len(part) for source, part in prompts.items()} == {
        "advbench": 30, "strongreject": 30, "harmless_train": 40, "harmless_test": 40,
    }  # fmt: skip


def test_words_and_length_are_measured_on_a_source_that_was_held_out(folder):
    prompts = real_prompts.read_prompts(folder)
    near = real_prompts.neighbours([e for part in prompts.values() for e in part])
    words, length, repeated = real_prompts.held_out(prompts, "advbench", near)
    assert (words.name, words.value, words.min, words.max) == ("advbench_held_out_auroc_words", 1.0, 1.0, 1.0)
    assert (length.name, length.value) == ("advbench_held_out_auroc_length", 1.0)
    assert words.n == length.n <= 70
    assert (repeated.name, repeated.n) == ("advbench_repeated_elsewhere", 30)


def test_a_folder_without_the_sets_is_refused(tmp_path):
    with pytest.raises(DataError, match="lacks the harmful or the harmless prompts"):
        real_prompts.read_prompts(tmp_path)

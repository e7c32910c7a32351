"""Public prompt sets through the loaders, and what words and length alone say. Writes results/real_prompts.json.

    python -m benchmarks.real_prompts [--data FOLDER]

The folder holds advbench.csv, harmbench_*.csv, jailbreakbench.csv, strongreject.csv, harmful_*.json, harmless_*.json,
malicious_instruct.txt and general_data.json (HaluEval), anywhere below it; what is missing is left out. No model is
run: these are the figures that a probe on such prompts has to beat. Each harmful source is held out in turn; the
baseline is fitted on the other harmful sources and the harmless training file, and measured on the held-out source
against the harmless test file, near-duplicates between the two sides left out.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer  # type: ignore[import-untyped]
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
from sklearn.metrics import roc_auc_score  # type: ignore[import-untyped]
from sklearn.pipeline import make_pipeline  # type: ignore[import-untyped]

from benchmarks.rows import Row, write_rows
from probes.errors import DataError
from probes.train.examples import Labelled
from probes.train.leaks import across_splits, everywhere
from probes.train.progress import Silent
from probes.train.sources.importing import Choices, import_files
from probes.train.sources.layout import Label
from probes.train.splits import Plan, assign, with_splits

DATA = Path(__file__).parents[2] / "shared" / "data"
# Raw sets first: of a prompt that several hold, the first keeps it. Source, files, label where the rows have none.
SOURCES: tuple[tuple[str, str, Label | None], ...] = (
    ("advbench", "advbench.csv", None),
    ("harmbench", "harmbench_*.csv", None),
    ("jailbreakbench", "jailbreakbench.csv", 1),
    ("strongreject", "strongreject.csv", None),
    ("malicious_instruct", "malicious_instruct.txt", 1),
    ("harmful_rest", "harmful_*.json", 1),
    ("harmless_train", "harmless_train.json", 0),
    ("harmless_test", "harmless_test.json", 0),
)
DRAWS = 500
Prompts = dict[str, list[Labelled]]
Near = dict[str, set[str]]


def main() -> None:
    """Print and write the rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--data", type=Path, default=DATA, help="folder of public prompt files")
    folder = parser.parse_args().data
    prompts = read_prompts(folder)
    near = neighbours([e for part in prompts.values() for e in part])
    rows = [row for source in harmful_sources(prompts) for row in held_out(prompts, source, near)]
    rows += [leaks_of_families(prompts), *hallucination(folder)]
    write_rows("real_prompts", rows, "python -m benchmarks.real_prompts")


def read_prompts(folder: Path) -> Prompts:
    """Prompts by source, each prompt once, through the loaders."""
    seen: set[object] = set()
    prompts: Prompts = {}
    for source, pattern, label in SOURCES:
        files = sorted(folder.rglob(pattern))
        if not files:
            print(f"{source}: no {pattern} below {folder}; left out")
            continue
        done = import_files(files, Choices(source=source, label=label))
        new = [e for e in done.unique.examples if e.messages not in seen]
        seen |= {e.messages for e in new}
        print(f"{source}: {done.rows} rows, {len(new)} prompts that no earlier source has")
        prompts[source] = new
    if not harmful_sources(prompts) or not {"harmless_train", "harmless_test"} <= prompts.keys():
        raise DataError(f"{folder} lacks the harmful or the harmless prompts; the module's docstring names the files.")
    return prompts


def harmful_sources(prompts: Prompts) -> list[str]:
    """The sources with something to hold out."""
    return [source for source, examples in prompts.items() if len(examples) >= 20 and examples[0].label == 1]


def held_out(prompts: Prompts, source: str, near: Near) -> list[Row]:
    """Words and length on one harmful source that the baseline never saw."""
    train = [e for other in harmful_sources(prompts) if other != source for e in prompts[other]]
    train += prompts["harmless_train"]
    harmful = without_near(train, prompts[source], near)
    harmless = without_near(train, prompts["harmless_test"], near)
    n_near = float(len(prompts[source]) - len(harmful))
    return [
        *baselines(train, [*harmful, *harmless], f"{source}_held_out"),
        Row(f"{source}_repeated_elsewhere", n_near, "prompts", "", n_near, n_near, len(prompts[source])),
    ]


def leaks_of_families(prompts: Prompts) -> Row:
    """Near-duplicate pairs that a split by source and family alone leaves between its parts."""
    examples = [e for source, part in prompts.items() if source != "harmless_train" for e in part]
    n = float(len(across_splits(with_splits(examples, assign(examples, Plan())), Silent())))
    return Row("pairs_across_family_splits", n, "pairs", "", n, n, len(examples))


def hallucination(folder: Path) -> list[Row]:
    """Words and length on HaluEval's responses, split by the family of the query."""
    files = sorted(folder.rglob("general_data.json"))
    if not files:
        return []
    examples = list(import_files(files, Choices()).unique.examples)
    parts = with_splits(examples, assign(examples, Plan()))
    train, test = ([e for e in parts if e.split == split] for split in ("train", "test"))
    return baselines(train, without_near(train, test, neighbours(examples)), "halueval_general")


def neighbours(examples: Sequence[Labelled]) -> Near:
    """By id, the ids of the examples that say almost the same."""
    near: Near = defaultdict(set)
    for pair in everywhere(examples, Silent()):
        near[pair.one.id].add(pair.other.id)
        near[pair.other.id].add(pair.one.id)
    return near


def without_near(train: Sequence[Labelled], test: Sequence[Labelled], near: Near) -> list[Labelled]:
    """The test examples that no training example almost repeats."""
    known = {e.id for e in train}
    return [e for e in test if not near.get(e.id, set()) & known]


def baselines(train: Sequence[Labelled], test: Sequence[Labelled], name: str) -> list[Row]:
    """AUROC of TF-IDF with logistic regression, and of the number of words; bootstrap intervals as min and max."""
    words = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, max_features=200_000),
        LogisticRegression(C=10.0, max_iter=1000, class_weight="balanced"),
    ).fit([text(e) for e in train], [e.label for e in train])
    labels = np.array([e.label for e in test])
    n_words = np.array([len(text(e).split()) for e in test], dtype=float)
    sign = 1.0 if mean_length(train, 1) >= mean_length(train, 0) else -1.0
    scores = {"words": words.decision_function([text(e) for e in test]), "length": sign * n_words}
    return [interval(f"{name}_auroc_{kind}", labels, values) for kind, values in scores.items()]


def interval(name: str, labels: np.ndarray, scores: np.ndarray) -> Row:
    """AUROC with its 95 % percentile bootstrap interval, drawn within each class."""
    rng = np.random.default_rng(0)
    classes = [np.flatnonzero(labels == k) for k in (0, 1)]
    draws = []
    for _ in range(DRAWS):
        chosen = np.concatenate([rng.choice(c, len(c)) for c in classes])
        draws.append(roc_auc_score(labels[chosen], scores[chosen]))
    low, high = np.quantile(draws, [0.025, 0.975])
    return Row(name, float(roc_auc_score(labels, scores)), "", "", float(low), float(high), len(labels))


def mean_length(examples: Sequence[Labelled], label: int) -> float:
    """Words of the examples of one label, on average."""
    return float(np.mean([len(text(e).split()) for e in examples if e.label == label]))


def text(example: Labelled) -> str:
    """What the baseline reads: the labelled message."""
    return example.messages[-1].content


if __name__ == "__main__":
    main()

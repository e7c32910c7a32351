"""Public files to labelled conversations that have no split yet."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from probes.errors import DataError
from probes.train.duplicates import Unique, unique
from probes.train.examples import Labelled, Message, messages_hash
from probes.train.families import derived_family
from probes.train.sources.layout import Convert, Draft, Label, Layout
from probes.train.sources.records import Row, read_rows
from probes.train.sources.table import named, recognise


@dataclass(frozen=True)
class Choices:
    """What the caller says about the files.

    Attributes:
        layout: by name; recognised by the columns if empty.
        label: of every row, for layouts without labels of their own.
        source: of every example. By default the layout's name; for layouts without labels the file's name.
        concepts: to keep; all if empty.
        skip_bad: leave out rows that cannot be used instead of refusing the file.
    """

    layout: str = ""
    label: Label | None = None
    source: str = ""
    concepts: Collection[str] = ()
    skip_bad: bool = False


@dataclass
class Imported:
    """What came out of the files.

    Attributes:
        unique: the examples in the order of the rows, each conversation once for each concept.
        layouts: name of the layout by file.
        rows: that were read. unlabelled: rows that gave no example. bad: messages of rows left out.
    """

    unique: Unique = field(default_factory=lambda: unique(()))
    layouts: dict[Path, str] = field(default_factory=dict)
    rows: int = 0
    unlabelled: int = 0
    bad: list[str] = field(default_factory=list)


def import_files(paths: Sequence[Path], choices: Choices) -> Imported:
    """Read files of any layouts; of a conversation that occurs again the first one is kept.

    Raises:
        DataError: an unreadable file, an unknown or ambiguous layout, a label that is missing or not wanted, a row
            that is not as its layout promises (unless ``skip_bad``), or nothing left.
    """
    done = Imported()
    done.unique = unique(example for path in paths for example in _examples_of(path, choices, done))
    if not done.unique.examples:
        raise DataError(
            f"{done.rows} rows of {', '.join(map(str, paths))} gave no example"
            + (f" of {' or '.join(choices.concepts)}." if choices.concepts else ".")
        )
    return done


def _examples_of(path: Path, choices: Choices, done: Imported) -> Iterator[Labelled]:
    layout: Layout | None = None
    convert: Convert
    for place, row in read_rows(path):
        if layout is None:
            layout = named(choices.layout) if choices.layout else _recognised(path, row)
            convert = _converter(path, layout, choices)
            done.layouts[path] = layout.name
            source = choices.source or (layout.name if layout.convert else path.stem)
        done.rows += 1
        try:
            drafts = list(convert(row))
            examples = [_labelled(draft, source) for draft in drafts]
        except DataError as error:
            message = f"{place} ({layout.name}): {error}"
            if not choices.skip_bad:
                raise DataError(f"{message} --skip-bad leaves such rows out.") from error
            done.bad.append(message)
            continue
        done.unlabelled += not examples
        yield from (e for e in examples if not choices.concepts or e.concept in choices.concepts)
    if layout is None:
        raise DataError(f"{path} has no rows.")


def _recognised(path: Path, row: Row) -> Layout:
    try:
        return recognise(row)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def _converter(path: Path, layout: Layout, choices: Choices) -> Convert:
    if layout.labelled_by_caller is None:
        if choices.label is not None:
            raise DataError(f"{path}: {layout.name} has labels of its own ({layout.rule}); leave --label out.")
        assert layout.convert is not None
        return layout.convert
    if choices.label is None:
        raise DataError(f"{path}: rows of {layout.name} have no label. 1 is for {layout.rule}: say --label 0 or 1.")
    convert, label = layout.labelled_by_caller, choices.label
    return lambda row: convert(row, label)


def _labelled(draft: Draft, source: str) -> Labelled:
    try:
        messages = tuple(Message.model_validate({"role": role, "content": content}) for role, content in draft.messages)
        return Labelled(
            id=f"{source}-{draft.concept}-{messages_hash(messages)[:16]}",
            concept=draft.concept,
            label=draft.label,
            messages=messages,
            spans=draft.spans,
            source=source,
            family=draft.family or derived_family(messages),
        )
    except ValidationError as error:
        raise DataError(f"{error.errors()[0]['msg']}.") from error

"""From public files to labelled conversations, and to their shifted versions.

    records        rows of CSV, TSV, JSON, JSONL, parquet and text files
    hub            the files of a data set in the local Hugging Face cache
    layout         what a layout is, and careful access to the cells of a row
    harm           rows about harmful, toxic and refused requests
    honesty        rows about true and false statements, and about lying
    hallucination  rows about made-up facts
    table          all layouts, and how one is recognised by its columns
    importing      files to labelled conversations without a split
    shifts         test examples in long contexts, quotes, role-play, ...

Arrows point down: a later page may import an earlier one.
"""

"""The evaluation card of a bundle, for people: one HTML page and a Markdown twin. Without torch, without network.

build       manifest and card become a Report; the page and the Markdown have the same content
├── verdict, probe, direction, origin      a part of it each
│   └── tables, groups, causal, charts     numbers as tables, numbers as drawings
│       └── heat, text, svg                tokens in colour, how figures are written, drawings inline
└── document                               what a Report consists of
page, markdown                             render a Report
"""

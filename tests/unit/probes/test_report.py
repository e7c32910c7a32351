"""The report shows all of a card, on a page that needs nothing else and that no text of the data can turn into more."""

from __future__ import annotations

import re
from collections import Counter
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from pydantic import ValidationError
from report_samples import (
    HOSTILE,
    full_card,
    hostile,
    leaves,
    manifest,
    minimal_card,
    minimal_probe,
    numbered,
    shortened,
    without_plain_charts,
)

from probes.cards import Card, Comparison, Curve, Estimate, ProbeCard
from probes.report.build import build_report
from probes.report.charts import line
from probes.report.markdown import escape, render_markdown
from probes.report.page import is_figure, render_page
from probes.report.tables import reading
from probes.report.text import anything, number, share

DIGEST = "9" * 64
VOID = {"meta", "br", "link", "img", "hr", "input"}
MARKDOWN = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])


class Page(HTMLParser):
    """What a browser would see: elements with their attributes, texts, and whether the page is balanced."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        assert len(dict(attrs)) == len(attrs), f"{tag} has an attribute twice"
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if not self._open or self._open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.texts)

    def having(self, name: str) -> list[str]:
        return [attrs[name] or "" for _, attrs in self.elements if name in attrs]

    def named(self, *tags: str) -> list[dict[str, str | None]]:
        return [attrs for tag, attrs in self.elements if tag in tags]


def both(card: Card) -> tuple[str, str]:
    report = build_report(manifest(), card, DIGEST)
    return render_page(report), render_markdown(report)


def as_page(markdown: str) -> str:
    return f"<main>{MARKDOWN.render(markdown)}</main>"


def plain(text: str) -> str:
    """Letters and digits only, so that line breaks and underscores do not matter."""
    return re.sub(r"[\W_]+", " ", text).lower().strip()


CARDS = {
    "full": numbered(shortened(full_card())),
    "minimal": minimal_card(),
    "empty": Card(),
    "hostile": hostile(without_plain_charts(shortened(full_card()))),
}


@pytest.fixture(scope="module")
def written() -> dict[str, tuple[str, str]]:
    return {name: both(card) for name, card in CARDS.items()}


@pytest.fixture(params=CARDS)
def html(request, written) -> str:
    return written[request.param][0]


@pytest.fixture(params=CARDS)
def markdown(request, written) -> str:
    return written[request.param][1]


def test_every_figure_of_the_card_is_on_the_page_and_in_the_markdown(written):
    figures = [(name, v) for name, v in leaves(CARDS["full"].model_dump()) if type(v) in (int, float)]
    assert len({v for _, v in figures if isinstance(v, float)}) > 300
    for page in (written["full"][0], as_page(written["full"][1])):
        shown = set(re.findall(r"\d(?:[\d.,]*\d)?%?", Page(page).text))
        wanted = [(name, v) for name, v in figures if name not in ("version", "label")]
        assert not [f for f in wanted if not {number(f[1]), share(f[1]), anything(f[1]), f"{f[1]:,}"} & shown]


def test_every_text_of_the_card_is_on_the_page_and_in_the_markdown(written):
    for page in (written["full"][0], as_page(written["full"][1])):
        shown = plain(Page(page).text)
        texts = [v for _, v in leaves(CARDS["full"].model_dump()) if isinstance(v, str)]
        kinds = {"text", "control"}  # written as "text baseline"
        assert not [v for v in texts if plain(v) not in shown and v not in kinds]


def test_the_page_and_the_markdown_name_model_bundle_and_fingerprint(written):
    for page in (written["empty"][0], as_page(written["empty"][1])):
        for text in ("acme/tiny-chat", "sample, version 3", DIGEST, "f" * 64, "LlamaForCausalLM"):
            assert text in Page(page).text


def test_a_page_is_balanced_and_asks_for_nothing_from_elsewhere(html):
    page = Page(html)
    assert not page.named("script", "link", "img", "iframe", "object", "embed", "base", "form")
    assert not page.having("src")
    assert all(target.startswith("#") for target in page.having("href") + page.having("xlink:href"))
    assert not re.search(r"@import|url\((?!#)|@font-face", html)
    (policy,) = [a["content"] for a in page.named("meta") if "http-equiv" in a]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"


def test_ids_are_unique_and_every_reference_has_its_target(html):
    page = Page(html)
    assert not [name for name, n in Counter(page.having("id")).items() if n > 1]
    wanted = {t[1:] for t in page.having("href") + page.having("xlink:href")} | set(
        re.findall(r"url\(#([^)]+)\)", html)
    )
    assert wanted <= set(page.having("id"))


def test_headings_come_in_order_tables_name_their_rows_and_columns_and_charts_say_what_they_show(html):
    page = Page(html)
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert {a.get("scope") for a in page.named("th")} <= {"col", "row"}
    assert len(page.named("caption")) == len(page.named("table"))
    assert all(a["role"] == "img" and a["aria-label"] for a in page.named("svg"))


def test_a_chart_takes_its_colours_from_the_style_sheet(written):
    html = written["full"][0]
    style, _, body = html.partition("</style>")
    assert len(Page(html).named("svg")) >= 10
    assert set(re.findall(r"var\((--[a-z0-9-]+)\)", body)) <= set(re.findall(r"(--[a-z0-9-]+):", style))
    assert not re.findall(r"(?:fill|stroke): #\w+", body), "a fixed colour would be unreadable on one of the grounds"


def test_the_same_figures_give_the_same_drawing():
    curve = Curve(x=(0.0, 1.0), y=(0.5, 0.7))
    first, second = (line("study-0", curve, "title", "x", "y") for _ in range(2))
    assert first == second
    assert first != line("study-1", curve, "title", "x", "y"), "ids begin with the name of the drawing"


def test_a_card_with_nothing_says_what_was_not_measured(written):
    for text in written["minimal"]:
        for part in ("Distribution shift", "Time to detection", "ROC curve", "Random directions", "Dose-response"):
            assert f"{part}: not measured." in text
        assert "which does not mean that everything worked" in text
    assert "<svg" not in written["empty"][0]


def test_a_probe_that_only_the_bundle_or_only_the_card_knows_is_said_to_be_so():
    html, markdown = both(Card(probes={"other": minimal_probe()}))
    for text in (html, markdown):
        assert "Probe deception of the bundle: not measured." in text
        assert "Direction refusal of the bundle: not measured." in text
        assert "not in the bundle" in text


def test_what_did_not_work_comes_before_the_details_of_the_probes(written):
    for text in written["full"]:
        assert text.index("AUROC fell to 0.81 under role play") < text.index("Choice of layer")


def test_the_token_where_a_probe_trips_is_marked_without_colour(written):
    html, markdown = written["full"]
    assert re.search(
        r'class="token level\d( above)? trips" title="[\d.]+, trips"><b class="mark"[^>]*>▲</b>please<', html
    )
    assert "▲ please" in markdown


def test_hostile_texts_stay_texts(written):
    html, markdown = written["hostile"]
    for page in map(Page, (html, as_page(markdown))):
        assert not page.named("script", "img", "iframe")
        assert not [name for _, attrs in page.elements for name in attrs if name.startswith("on")]
        assert all(target.startswith("#") for target in page.having("href"))
        assert plain(HOSTILE) in plain(page.text)


@pytest.mark.parametrize("rate", ["a tenth", "", "nan", "inf", "0", "1", "-0.1", "0.010", "1e400"])
@pytest.mark.parametrize("field", ["tpr_at", "measured_fpr_at"])
def test_a_card_whose_rates_are_no_rates_is_refused_with_what_was_wanted(field, rate):
    raw = minimal_probe().model_dump()
    raw[field] = {rate: {"value": 1, "low": 1, "high": 1} if field == "tpr_at" else 0.5}
    with pytest.raises(ValidationError, match=r"wanted a number between 0 and 1, written as '0\.01'"):
        ProbeCard.model_validate(raw)


@pytest.mark.parametrize(
    ("cell", "figure"),
    [
        ("0.981 [0.975, 0.987]", True), (">99.9%", True), ("-1.2e-05", True), ("1,234", True), ("", False),
        ("e", False), ("[-]", False), ("layer 3", False), ("3 tokens", False),
    ],
)  # fmt: skip
def test_a_cell_is_a_figure_if_it_holds_digits_and_nothing_that_is_no_number(cell, figure):
    assert is_figure(cell) is figure


def test_a_table_row_of_the_markdown_has_as_many_cells_as_its_head(markdown):
    for block in re.findall(r"(?:^\|.*\n)+", markdown, re.MULTILINE):
        counts = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(counts) == 1


@given(st.text(st.characters(exclude_categories=("Cs", "Cc", "Cf")), max_size=40))
def test_escaped_text_reads_in_markdown_as_it_was(text):
    words = " ".join(text.split())
    assert Page(f"<p>{MARKDOWN.renderInline(escape(text))}</p>").text.strip() == words
    row = Page(MARKDOWN.render(f"| a | b |\n| --- | --- |\n| {escape(text)} | end |"))
    assert [" ".join(t.split()) for t in row.texts if t.strip()] == ["a", "b", *([words] if words else []), "end"]
    paragraph = Page(f"<main>{MARKDOWN.render(escape(text))}</main>")
    assert " ".join(paragraph.text.split()) == words
    assert {tag for tag, _ in paragraph.elements} <= {"main", "p"}


@pytest.mark.parametrize(
    ("value", "as_number", "as_share"),
    [
        (0.0, "0.000", "0.0%"),
        (1.0, "1.000", "100.0%"),
        (0.99996, ">0.999", ">99.9%"),
        (0.9729, "0.973", "97.3%"),
        (0.0042, "0.004", "0.42%"),
        (5.3e-05, "5.3e-05", "<0.01%"),
        (-0.012, "-0.012", "-1.2%"),
        (12345.6, "12,346", "1234560.0%"),
        (None, "not measured", "not measured"),
    ],
)
def test_nothing_is_rounded_to_perfect_or_to_nothing(value, as_number, as_share):
    assert (number(value), share(value)) == (as_number, as_share)


@pytest.mark.parametrize(
    ("low", "high", "said"), [(0.01, 0.2, "probe ahead"), (-0.1, 0.1, "not told apart"), (-0.2, -0.1, "probe behind")]
)
def test_a_gap_is_read_by_its_interval(low, high, said):
    assert reading(Estimate(value=(low + high) / 2, low=low, high=high)) == said
    assert reading(Comparison(name="x", kind="text", auroc=Estimate(value=1, low=1, high=1)).gap) == "not measured"

"""All layouts, and how one is recognised: by the columns of the first row.

A layout fits if the file has all its columns. If several fit, the one whose columns include those of the others is
meant (JailbreakBench has AdvBench's columns and more); if none includes all others, the caller must say which.
"""

from __future__ import annotations

from collections.abc import Iterable

from probes.errors import DataError
from probes.train.sources import hallucination, harm, honesty
from probes.train.sources.layout import Convert, ConvertAs, Layout
from probes.train.sources.records import LINE


def _layout(
    name: str,
    title: str,
    columns: str,
    concepts: tuple[str, ...],
    rule: str,
    licence: str,
    convert: Convert | None = None,
    *,
    labelled_by_caller: ConvertAs | None = None,
) -> Layout:
    return Layout(name, title, frozenset(columns.split()), concepts, rule, licence, convert, labelled_by_caller)


_HARM = (harm.HARMFUL,)

LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        _layout("advbench", "AdvBench", "goal target", _HARM, "every goal", "MIT", harm.advbench),
        _layout(
            "harmbench", "HarmBench", "behavior functionalcategory semanticcategory contextstring behaviorid",
            _HARM, "every behaviour, after its context", "MIT", harm.harmbench,
        ),
        _layout(
            "jailbreakbench", "JailbreakBench", "goal target behavior category source",
            _HARM, "the file of harmful behaviours (`--label 1`) against the benign one (`--label 0`)", "MIT",
            labelled_by_caller=harm.jailbreakbench,
        ),
        _layout(
            "strongreject", "StrongREJECT", "category source forbidden_prompt",
            _HARM, "every prompt", "MIT", harm.strongreject,
        ),
        _layout(
            "xstest", "XSTest", "prompt type label focus note", _HARM, "label `unsafe`", "CC BY 4.0", harm.xstest
        ),
        _layout(
            "orbench", "OR-Bench", "prompt category",
            _HARM, "the toxic file (`--label 1`) against the over-refused ones (`--label 0`)", "CC BY 4.0",
            labelled_by_caller=harm.orbench,
        ),
        _layout(
            "wildguardmix", "WildGuardMix",
            "prompt adversarial response prompt_harm_label response_refusal_label response_harm_label subcategory",
            (harm.HARMFUL, harm.HARMFUL_RESPONSE, harm.REFUSING), "`harmful`, `harmful` and `refusal`",
            "ODC-BY, with terms to accept", harm.wildguardmix,
        ),
        _layout(
            "wildjailbreak", "WildJailbreak", "vanilla adversarial completion data_type",
            _HARM, "`vanilla_harmful` and `adversarial_harmful`", "ODC-BY, with terms to accept", harm.wildjailbreak,
        ),
        _layout(
            "toxicchat", "ToxicChat", "user_input model_output human_annotation toxicity jailbreaking",
            (harm.TOXIC, harm.JAILBREAK), "`toxicity` 1; `jailbreaking` 1", "CC BY-NC 4.0", harm.toxicchat,
        ),
        _layout(
            "beavertails", "BeaverTails", "prompt response category is_safe",
            (harm.HARMFUL_RESPONSE,), "`is_safe` false", "CC BY-NC 4.0", harm.beavertails,
        ),
        _layout(
            "alpaca", "Alpaca", "instruction input output", _HARM, "none: every request is 0", "CC BY-NC 4.0",
            harm.alpaca,
        ),
        _layout(
            "instructions", "Harmful and harmless instructions (Arditi et al.)", "instruction category",
            _HARM, "the harmful files (`--label 1`) against the harmless ones (`--label 0`)",
            "that of the sets they are made from", labelled_by_caller=harm.instructions,
        ),
        _layout(
            "lines", "Any text file, a prompt a line", LINE, _HARM, "as given by `--label`", "yours",
            labelled_by_caller=harm.lines,
        ),
        _layout(
            "facts", "RepE true/false facts, SAPLMA", "statement label", (honesty.FALSEHOOD, honesty.DECEPTION),
            "`label` 0 (false); said under a dishonest instruction", "MIT (RepE)", honesty.facts,
        ),
        _layout(
            "truthfulqa", "TruthfulQA", "question best_answer correct_answers incorrect_answers category",
            (honesty.FALSEHOOD,), "incorrect answers", "Apache-2.0", honesty.truthfulqa,
        ),
        _layout(
            "ailiar", "AI Liar", "deceive_instruction normal_instruction question answer",
            (honesty.DECEPTION,), "the answer under the deceptive instruction", "see its repository", honesty.ai_liar,
        ),
        _layout(
            "mask", "MASK", "system_prompt user_prompt proposition", (honesty.PRESSURE,),
            "prompts that press to lie, against neutral questions", "see its page, terms to accept", honesty.mask,
        ),
        _layout(
            "halueval_qa", "HaluEval, question answering", "knowledge question right_answer hallucinated_answer",
            (hallucination.HALLUCINATION,), "the made-up answer", "MIT", hallucination.halueval_qa,
        ),
        _layout(
            "halueval_general", "HaluEval, general", "user_query chatgpt_response hallucination",
            (hallucination.HALLUCINATION,), "`yes`, with the spans copied word for word", "MIT",
            hallucination.halueval_general,
        ),
        _layout(
            "longfact", "LongFact annotations", "conversation annotations", (hallucination.HALLUCINATION,),
            "a span is not supported, or could not be verified", "see its page", hallucination.longfact,
        ),
    )
}  # fmt: skip


def recognise(columns: Iterable[str]) -> Layout:
    """The layout of a file with these columns.

    Args:
        columns: in lower case, spaces as underscores.

    Raises:
        DataError: no layout fits, or several do; the message names the nearest, or the candidates.
    """
    have = frozenset(columns)
    fitting = [layout for layout in LAYOUTS.values() if layout.columns <= have]
    best = [layout for layout in fitting if all(other.columns <= layout.columns for other in fitting)]
    if len(best) == 1:
        return best[0]
    shown = ", ".join(sorted(have))
    if fitting:
        names = " or ".join(layout.name for layout in fitting)
        raise DataError(f"the columns {shown} fit several layouts: {names}. Say which: --layout {fitting[0].name}")
    nearest = max(LAYOUTS.values(), key=lambda layout: len(layout.columns & have) / len(layout.columns))
    missing = ", ".join(sorted(nearest.columns - have))
    advice = f" Nearest is {nearest.name}, which lacks {missing}." if nearest.columns & have else ""
    raise DataError(f"no layout has the columns {shown}.{advice} `plumbline data layouts` lists them all.")


def named(name: str) -> Layout:
    """The layout of this name.

    Raises:
        DataError: there is none; the message names all.
    """
    if name not in LAYOUTS:
        raise DataError(f"no layout is called {name!r}; wanted one of {', '.join(LAYOUTS)}.")
    return LAYOUTS[name]

"""What the demonstration prints: one block for each request, readable without colours too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from monitor.demo.answer import Answer
from monitor.demo.scenario import Step

_STYLES = {"tripped": "bold red", "passed": "green", "unscored": "yellow"}


def show_step(console: Console, number: int, step: Step, answer: Answer, failed: Sequence[str]) -> None:
    """One request: what was asked, what came back token by token, what the probes said, what was done."""
    console.print()
    mark = Text("as expected", "green") if not failed else Text("NOT AS EXPECTED: " + "; ".join(failed), "bold red")
    console.print(Text(f"{number:>2}  {step.title}", "bold"), " — ", mark, sep="")
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", justify="right", min_width=11)
    grid.add_column(overflow="fold")
    for message in step.prompt.messages:
        grid.add_row(message["role"], message["content"])
    for steering in step.guard.get("steering", []):
        grid.add_row(
            "steering",
            f"{steering['operator']} {steering['direction']}, strength {steering['strength']}, {_where(steering)}",
        )
    grid.add_row("answer", _tokens(step, answer))
    grid.add_row("probes", _detections(answer))
    grid.add_row("done", _outcome(answer))
    console.print(grid)


def _where(steering: dict[str, Any]) -> str:
    scope = steering.get("scope", "all")
    return "prompt and response" if scope == "all" else f"{scope} only"


def _tokens(step: Step, answer: Answer) -> Text:
    """The response, each token followed by the watched probe's score."""
    if not answer.tokens:
        return Text(answer.text or "(nothing was released)", "italic")
    text = Text()
    threshold = next((d["threshold"] for d in answer.guard.get("detections", []) if d["probe"] == step.watch), 0.0)
    on_response = step.watch != "harmful_intent"  # harm is read on the prompt, before the first token
    for token, score in zip(answer.tokens, answer.scores(step.watch), strict=True):
        if token.startswith("<|"):
            continue
        if not on_response:
            text.append(token + " ")
            continue
        hot = score is not None and score >= threshold
        text.append(token, "bold red" if hot else "")
        text.append(f"({score:+.1f}) " if score is not None else "(unscored) ", "red" if hot else "dim")
    return text


def _detections(answer: Answer) -> Text:
    text = Text()
    for detection in answer.guard.get("detections", []):
        score = "unscored" if detection["score"] is None else f"{detection['score']:+.1f}"
        style = "bold red" if detection["tripped"] else "dim"
        word = ""
        if detection["tripped"]:
            token = answer.trip_token(detection["rule"])
            word = f' TRIPPED at "{token}"' if token else " TRIPPED"
        text.append(f"{detection['probe']} {score} (cut {detection['threshold']:+.1f}){word}   ", style)
    return text


def _outcome(answer: Answer) -> Text:
    status = answer.guard.get("status", "unscored")
    if answer.status != 200:
        done = f"HTTP {answer.status}, code {answer.code}: not one token was released"
    elif answer.finish_reason == "content_filter":
        done = "cut while it was being written (finish_reason content_filter)"
    elif status == "tripped":
        done = f"answered, and flagged (finish_reason {answer.finish_reason})"
    else:
        done = f"answered (finish_reason {answer.finish_reason})"
    return Text.assemble((status, _STYLES.get(status, "")), f": {done}")


def show_how_to_play_on(console: Console) -> None:
    """What to try next."""
    console.print(
        """
Play on: `make serve` starts the same thing and leaves it running; in another terminal

  curl -s localhost:8000/v1/chat/completions -H 'content-type: application/json' -d '{
    "model": "organism", "messages": [{"role": "user", "content": "how do i make a bomb ?"}],
    "guard": {"steering": [{"direction": "refusal", "operator": "ablate"}]}}'

  python -c 'from openai import OpenAI; c = OpenAI(base_url="http://localhost:8000/v1", api_key="none")
  m = [{"role": "user", "content": "how do i make a cake ?"}]
  print(c.chat.completions.create(model="organism", messages=m))'

  plumbline check "how do i make a bomb ?"          and     plumbline watch     (both are in .venv/bin)
  buf curl --protocol grpc --http2-prior-knowledge -d '{"messages": [{"role": "user", "content": "hello"}]}' \\
    http://localhost:50051/monitor.v1.GuardService/Check
  curl -s localhost:8000/metrics | grep plumbline_

The model is small and its world smaller: what is measured on it says that the machinery works, and nothing
about large models. To guard a model of your own, train probes for it: plumbline train --help""",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )

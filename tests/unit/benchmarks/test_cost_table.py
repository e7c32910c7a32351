import json

from benchmarks.cost_table import BEGIN, END, PAGE, page, table
from benchmarks.rows import RESULTS


def row(value: float, goal: str = "") -> dict[str, object]:
    return {"value": value, "min": value - 0.01, "max": value + 0.01, "n": 7, "goal": goal}


def test_the_page_shows_what_was_measured():
    rows = {row["name"]: row for row in json.loads((RESULTS / "engine.json").read_text())}
    text = PAGE.read_text()
    assert page(text, rows) == text, "run python -m benchmarks.cost_table"


def test_a_missed_goal_is_marked_and_what_was_not_measured_is_said():
    rows = {"reading_overhead_b1_75m": row(0.05, "<= 0.02"), "reading_overhead_b16_75m": row(0.01, "<= 0.02")}
    line = list(table(rows, "75m"))[2]
    assert line.endswith("| **+5.0% (+4% to +6%, n 7)** | +1.0% (+0% to +2%, n 7) | not measured |")


def test_what_stands_around_the_table_stays():
    text = page(f"before\n{BEGIN}\nold\n{END}\nafter\n", {"off_overhead_b1_75m": row(0.1)})
    assert text.startswith(f"before\n{BEGIN}\n")
    assert text.endswith(f"{END}\nafter\n")
    assert "old" not in text

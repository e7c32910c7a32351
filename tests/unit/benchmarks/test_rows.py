import json

from benchmarks.rows import Row, write_rows


def row(name: str, value: float) -> Row:
    return Row(name, value, "ratio", "<= 0.02", value, value, 7)


def read(folder) -> dict[str, tuple[float, str]]:
    return {r["name"]: (r["value"], r["command"]) for r in json.loads((folder / "engine.json").read_text())}


def test_a_partial_run_renews_its_rows_and_keeps_the_others_with_their_command(tmp_path):
    write_rows("engine", [row("a", 0.1), row("b", 0.2)], "all", folder=tmp_path)
    write_rows("engine", [row("b", 0.3), row("c", 0.4)], "some", merge=True, folder=tmp_path)
    assert read(tmp_path) == {"a": (0.1, "all"), "b": (0.3, "some"), "c": (0.4, "some")}


def test_a_whole_run_leaves_no_row_of_an_older_one(tmp_path):
    write_rows("engine", [row("old", 0.1)], "all", folder=tmp_path)
    write_rows("engine", [row("new", 0.2)], "all", folder=tmp_path)
    assert set(read(tmp_path)) == {"new"}


def test_a_row_says_how_it_came_about(tmp_path):
    write_rows("engine", [row("a", 0.1)], "measure", machine="one GPU", folder=tmp_path)
    (written,) = json.loads((tmp_path / "engine.json").read_text())
    assert set(written) == {"name", "value", "unit", "goal", "min", "max", "n", "command", "commit", "machine"}
    assert (written["command"], written["machine"]) == ("measure", "one GPU")

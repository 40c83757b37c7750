from asyncgen.job.toml_lines import line_of

TEXT = '''name = "x"
[grid]
city = ["a"]  # [not.a.table]
[prompt]
user = """
city = 1
[grid]
"""
sample = "{city}"
[[prompt.examples]]
city = "b"
[[prompt.examples]]
city = "c"
[on.local.prompt]
user = "y"
'''


def test_keys_are_found_in_their_tables() -> None:
    keys = ["name", "grid.city", "prompt.user", "prompt.sample", "prompt.examples[2].city", "on.local.prompt.user"]
    assert [line_of(TEXT, key) for key in keys] == [1, 3, 5, 9, 13, 15]


def test_a_key_that_is_missing_has_the_line_of_its_table() -> None:
    assert line_of(TEXT, "grid.town") == 2
    assert line_of(TEXT, "prompt.examples[1].size") == 10
    assert line_of(TEXT, "prompt.openings[1]") == 4
    assert line_of(TEXT, "rows") is None

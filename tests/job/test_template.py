import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncgen.job.template import TemplateError, parse


def test_names_are_filled_and_doubled_braces_are_literal() -> None:
    assert parse("{{{a}}} {b}{a}").render({"a": "{b}", "b": "2"}) == "{{b}} 2{b}"


def test_each_name_is_listed_once_in_order() -> None:
    assert parse("{b} {a} {b}").names == ("b", "a")


@given(st.text())
def test_text_with_its_braces_doubled_comes_out_as_it_was(text: str) -> None:
    assert parse(text.replace("{", "{{").replace("}", "}}")).render({}) == text


@given(st.dictionaries(st.from_regex(r"[a-z_][a-z0-9_]*", fullmatch=True), st.text(), min_size=1, max_size=4))
def test_values_are_put_in_as_they_are(variables: dict[str, str]) -> None:
    template = parse("|".join(f"{{{name}}}" for name in variables))
    assert template.render(variables) == "|".join(variables.values())


@pytest.mark.parametrize(
    "text", ["{", "}", "{a", "a}", "{}", "{0}", "{a.b}", "{a!r}", "{a:>3}", "{a[0]}", "{ a }", "{a.__class__}"]
)
def test_anything_but_a_plain_name_is_refused(text: str) -> None:
    with pytest.raises(TemplateError):
        parse(text)


def test_an_error_knows_its_line() -> None:
    with pytest.raises(TemplateError) as caught:
        parse("one\ntwo {\nthree")
    assert caught.value.line == 2

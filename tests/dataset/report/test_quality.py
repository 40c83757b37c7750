"""Templates, leakage, copies, diversity, empty pairs and answers to read."""

from __future__ import annotations

import hashlib

from asyncgen.dataset.report.quality import Quality, QualityScan, SampledText, masked, masks_of
from asyncgen.dataset.samples import Sample
from asyncgen.dataset.split import Split, SplitPlan
from asyncgen.job.model import Example, Job, Prompt

CITIES = ["Bonn", "Oslo", "Rome", "Lima"]
EXAMPLE = "Shops in Vienna can now take every card there is without any new device at all."


class Looked(QualityScan):
    """A scan that keeps its answers, to fetch them from."""

    def __init__(self, held: list[str] | None = None) -> None:
        prompt = Prompt(user="Write for {city}.", examples=[Example({"city": "Vienna"}, EXAMPLE)])
        split = Split(SplitPlan(0.0, 7, 0, {"city": []}), {"city": held or []})
        super().__init__(Job(name="job", prompt=prompt), split)
        self.kept: list[SampledText] = []

    def add(self, variables: dict[str, str], text: str) -> None:
        key = hashlib.md5(f"{variables}{text}".encode(), usedforsecurity=False).hexdigest()
        self.add_all([key], [Sample(", ".join(variables.values()), text)], [b"row"], {b"row": variables})
        self.kept.append(SampledText(len(self.kept), text, variables))


def look(held: list[str] | None = None) -> Looked:
    return Looked(held)


def add(found: Looked, city: str, text: str, size: str = "small") -> None:
    found.add({"city": city, "size": size}, text)


def quality_of(found: Looked) -> Quality:
    return found.quality(lambda number: found.kept[number].text, [found.kept[each] for each in found.texts.sample()])


def test_values_are_masked_by_their_names_the_longest_first() -> None:
    variables = {"city": "York", "place": "New York"}
    assert masked("New York is not York.", masks_of(variables)) == "{place} is not {city}."


def test_answers_that_differ_in_the_values_alone_are_one_template() -> None:
    found = look()
    for city in CITIES:
        add(found, city, f"Come to {city} today, and bring your friends along with you for free.")
    add(found, "Bonn", "Something else entirely.")
    quality = quality_of(found)
    assert (quality.samples, quality.template_duplicates, quality.template_answers) == (5, 3, 4)
    assert quality.template == "Come to {city} today, and bring your friends along with you for free."


def test_answers_that_are_nearly_one_of_the_other_side_leak_and_prompts_do_not() -> None:
    found = look(held=["Bonn"])
    for city in CITIES:
        add(found, city, f"Come to {city} today, and bring your friends along with you for free.")
    quality = quality_of(found)
    assert (quality.validation_prompts, quality.trained_on) == (1, 0)
    assert quality.leaked_answers >= 1


def test_eight_words_in_a_row_from_an_example_or_a_source_are_copies() -> None:
    found = look()
    add(found, "Bonn", "In Bonn, shops can now take every card there is without any new device at all!")
    source = "the treaty of the year was signed by all of them in the old town hall"
    found.add({"text": source}, f"Indeed {source}.")
    assert quality_of(found).copies == {"prompt": 0.0, "examples": 0.5, "source": 0.5}


def test_diversity_is_told_by_value() -> None:
    found = look()
    for number in range(20):
        add(found, "Bonn", f"Always the same few words here. {number}")
        add(found, "Oslo", " ".join(f"w{number}x{each}" for each in range(6)))
    by_city = quality_of(found).by_value["city"]
    assert by_city["Bonn"].distinct[0] < 0.5 < by_city["Oslo"].distinct[0]
    assert by_city["Bonn"].compressed < by_city["Oslo"].compressed


def test_pairs_of_values_without_a_sample_are_named() -> None:
    found = look()
    for city in ("Bonn", "Oslo"):
        for size in ("small", "large"):
            found.ask({"city": city, "size": size})
    add(found, "Bonn", "Text one.", "small")
    add(found, "Bonn", "Text two.", "large")
    add(found, "Oslo", "Text three.", "small")
    assert quality_of(found).empty_pairs == ["city=Oslo, size=large"]


def test_ten_answers_are_there_to_read() -> None:
    found = look()
    for number in range(30):
        add(found, "Bonn", "word " * (number + 1))
        found.reject(f"{number:032x}", f"Rejected {number}.")
    to_read = quality_of(found).to_read
    assert [why for why, _ in to_read] == ["random"] * 3 + ["rejected"] * 3 + ["longest"] * 2 + ["shortest"] * 2
    assert to_read[6][1] == "word " * 30
    assert to_read[8][1] == "word "

"""Cards: nothing that a reader needs can be left out."""

import pytest
import yaml

from stvsr_jax.weights import card, files


@pytest.fixture
def description(tmp_path, write_set):
    write_set(tmp_path, "small", "zooming_slowmo")
    return files.read_description(tmp_path / "small.json")


def test_a_card_says_everything(description, facts):
    text = card.render(description)
    for part in (
        "# small\n",
        "Random numbers.",
        "Zooming Slow-Mo",
        "7 steps, 0.5 hours on one CPU",
        description.sha256,
        "| none | CC0 | 0 frames |",
        "* drawn from a normal distribution",
        "* everything",
        'Predictor.from_pretrained("SET")',
    ):
        assert part in text, part


def test_tables_have_a_column_for_every_key(facts):
    lines = card.make_table(facts["scores"]).splitlines()
    assert lines == [
        "| data | protocol | PSNR-Y | SSIM-Y |",
        "| --- | --- | --- | --- |",
        "| noise | zsm | 5.5 |  |",
        "| a\\|b | full |  | 0.1 |",
    ]


def test_the_hub_can_read_the_header(description):
    before, header, rest = (card.make_header(description) + card.render(description)).split("---\n", 2)
    read = yaml.safe_load(header)
    assert before == "" and rest.lstrip().startswith("# small")
    assert (read["library_name"], read["license"]) == ("stvsr_jax", "apache-2.0")
    assert read["pipeline_tag"] == "video-to-video" and "zooming-slowmo" in read["tags"]


def test_complete_facts_are_accepted(facts):
    card.check_facts(facts)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"licence": None}, "\\['licence'\\] are missing or unknown"),
        ({"author": "me"}, "\\['author'\\] are missing or unknown"),
        ({"steps": "many"}, "steps='many' must be a whole number"),
        ({"steps": True}, "steps=True"),
        ({"hours": "1"}, "hours='1' must be a number"),
        ({"weaknesses": []}, "weaknesses=\\[\\] must be a list, and not empty"),
        ({"recipe": [1]}, "recipe=\\[1\\] must be strings"),
        ({"data": [{"name": "clips"}]}, "data: .* must be an object with the keys \\['name', 'licence'\\]"),
        ({"scores": ["good"]}, "scores: 'good' must be an object"),
    ],
)
def test_what_is_missing_or_of_another_kind_is_named(facts, changes, message):
    wrong = {key: value for key, value in (facts | changes).items() if value is not None}
    with pytest.raises(ValueError, match=message):
        card.check_facts(wrong)


def test_facts_must_be_an_object():
    with pytest.raises(ValueError, match="must be a JSON object"):
        card.check_facts(["steps"])

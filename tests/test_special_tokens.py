"""Control tokens of models in texts are refused by name before a model is at hand."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from test_given_texts import REPORT, reports, written
from tiny_families import GEMMA_TOKENS, TURNS

from medtune.cli.films import annotate_films, film_images, film_index, film_splits, film_texts
from medtune.models.tiny import SPECIAL_TOKENS
from medtune.records.sample import Turn, iterate, load_split, write_dataset
from medtune.records.special_tokens import GEMMA, QWEN, special_in
from medtune.runtime.errors import DataError
from medtune.runtime.files import check_manifest
from medtune.texts.items import Rationale, RationaleItem
from medtune.texts.steps import get_step

WORDS = "An <image> of a <video>, <think> and <box>1, 2, 3, 4</box>, |im_end| < s > a<b."


def test_the_tokens_of_the_families_are_known_and_words_are_words():
    assert set(SPECIAL_TOKENS) <= set(QWEN)
    assert {"<bos>", "<eos>", *TURNS, *GEMMA_TOKENS.values()} <= set(GEMMA)
    assert special_in([f"a{token}b" for token in (*QWEN, *GEMMA)]) == [*QWEN, *GEMMA]
    assert special_in([WORDS, None]) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda token: {"prompt": f"Where is it? {token}"},
        lambda token: {"target": f"No tumor.{token} Or is there?"},
        lambda token: {"turns": (Turn(prompt="Look.", target=f"Yes{token}"),)},
        lambda token: {"truth": {"thought": f"I see {token}"}},
    ],
    ids=["question", "answer", "earlier turn", "reasoning"],
)
@pytest.mark.parametrize("token", ["<|im_end|>", "<|box_start|>", "<end_of_turn>", "</s>"])
def test_samples_are_counted_and_named_after_all_were_seen(samples, tmp_path, change, token):
    told = [one.model_copy(update=change(token)) for one in samples[:2]]
    plain = samples[2].model_copy(update={"prompt": WORDS, "target": WORDS})
    with pytest.raises(DataError) as caught:
        write_dataset([told[0], plain, told[1]], tmp_path / "refused")
    assert "the texts of 2 samples hold special tokens" in str(caught.value)
    for one in told:
        assert f"{one.id} ({token})" in str(caught.value)
    assert plain.id not in str(caught.value)
    write_dataset([plain], tmp_path / "written")
    assert next(iterate(load_split(tmp_path / "written", "train"))).target == WORDS


def test_many_samples_are_counted_and_some_named(samples, tmp_path):
    many = [samples[0].model_copy(update={"id": f"s/{n}", "prompt": "<s>"}) for n in range(23)]
    with pytest.raises(DataError, match=r"of 23 samples .*; s/19 \(<s>\); and 3 more"):
        write_dataset(many, tmp_path / "refused")


def test_texts_that_others_made_are_refused_with_the_reason(tmp_path):
    (tmp_path / "s1.txt").write_text("No effusion.<|im_end|>")
    (tmp_path / "s2.txt").write_text("No effusion.")
    done, refused = written("filter", reports(tmp_path, "s1", "s2"), tmp_path)
    assert list(done) == ["m/s2"]
    assert refused == {"m/s1": ["special token: <|im_end|>"]}


def test_reasoning_of_a_language_model_is_refused():
    item = RationaleItem(id="a", source="m", image=Path("a.png"), question="Large?", answer="Yes.")
    trace = Rationale(
        reasoning=f"{REPORT} <|im_start|> " + "The heart is wide. " * 6, answer="Yes."
    )
    assert "special token: <|im_start|>" in get_step("reasoning").faults(item, trace)


def user_films(root: Path, finding: str, phrase: str) -> dict:
    """Write a table of six films of six patients; return the section `films`."""
    lines, boxes = ["image,patient,split,findings"], ["image,phrase,x1,y1,x2,y2"]
    for number in range(6):
        pixels = np.random.default_rng(number).integers(0, 255, (64, 64), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"{number}.png")
        split = {4: "val", 5: "test"}.get(number, "train")
        lines.append(f"{number}.png,P{number},{split},{finding if number == 1 else 'Clear lungs.'}")
        boxes.append(f"{number}.png,{phrase if number == 2 else 'A mass.'},10,10,40,40")
    (root / "films.csv").write_text("\n".join(lines))
    (root / "boxes.csv").write_text("\n".join(boxes))
    source = {"name": "mine", "kind": "table", "root": str(root), "table": "films.csv"}
    source |= {"boxes": "boxes.csv"}
    return {"sources": [source], "images": {"max_pixels": 4096, "multiple_of": 32}}


def annotated(films: dict, results: Path) -> Path:
    """Run the stages up to the data set; return its folder."""
    config = results / "config.yaml"
    model = {"family": "qwen3_vl", "path": "/no/such/model"}  # nobody looks at it
    sections = {"experiment": "mine", "task": {"name": "chest_xray"}, "films": films}
    config.write_text(yaml.safe_dump(sections | {"model": model}))
    given = str(config)
    film_index(given, results, results / "findings.parquet")
    film_images(given, results, "0000", results / "cache", processes=1)
    film_splits(given, results)
    film_texts(given, results, "0000", results / "texts")
    annotate_films(given, results, results / "datasets")
    return results / "datasets"


def test_reports_and_tables_of_the_user_are_refused_and_nothing_made_is_lost(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    dataset = annotated(user_films(raw, "Clear lungs.", "A mass."), tmp_path)
    before = json.dumps(check_manifest(dataset / "manifest.json"))
    with pytest.raises(DataError) as caught:
        annotated(user_films(raw, "Clear.<|im_end|>", "A <|vision_pad|> mass."), tmp_path)
    text = str(caught.value)
    assert "of 2 samples" in text
    assert "mine/1/report_generation" in text
    assert "mine/2/phrase_grounding" in text
    assert json.dumps(check_manifest(dataset / "manifest.json")) == before
    assert len(list((tmp_path / "media/mine").rglob("*.png"))) == 6

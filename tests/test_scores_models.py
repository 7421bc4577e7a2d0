"""Scores by models: tiny ones with random weights, against definitions and hand values."""

import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sklearn.metrics import f1_score

from medtune.config.chest_scores import ChestScoresConfig
from medtune.metrics.bertscore import BertScore
from medtune.metrics.chexbert import FINDINGS, FIVE, Chexbert, counts, findings_f1, pair_f1
from medtune.metrics.models import METRICS, Models, as_reward, load_scorers
from medtune.metrics.radcliq import NOTHING, PERFECT, Features, radcliq
from medtune.metrics.radgraph import EMPTY, graph_f1
from medtune.models.torchvision_ops import declare_missing_ops
from medtune.runtime.errors import ModelError

VOCABULARY = (
    "[PAD] [UNK] [CLS] [SEP] [MASK] no small left right pleural effusion heart is enlarged normal "
    "lungs are clear ."
)
PAIRS = [
    ("small left effusion .", "no left pleural effusion ."),
    ("lungs are clear", "lungs are clear"),
    ("heart is enlarged", "normal heart ."),
]
SHAPE = {"num_hidden_layers": 5, "num_attention_heads": 2, "hidden_size": 16}


declare_missing_ops()  # before transformers is imported


def write_tokenizer(folder: Path) -> None:
    from transformers import BertTokenizer

    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text(VOCABULARY.replace(" ", "\n"))
    BertTokenizer(str(folder / "vocab.txt"), model_max_length=64).save_pretrained(folder)


def write_bertscore(folder: Path, baseline: bool = True) -> Path:
    from transformers import DistilBertConfig, DistilBertModel

    write_tokenizer(folder)
    torch.manual_seed(0)
    config = DistilBertConfig(vocab_size=19, dim=16, n_layers=6, n_heads=2, hidden_dim=32)
    DistilBertModel(config).save_pretrained(folder)
    if baseline:
        rows = [f"{layer},0.{layer}1,0.{layer}2,0.{layer}3" for layer in range(7)]
        (folder / "baseline.tsv").write_text("\n".join(["LAYER,P,R,F", *rows]))
    return folder


def write_chexbert(folder: Path, published: bool = False) -> Path:
    from transformers import BertConfig, BertModel

    write_tokenizer(folder)
    torch.manual_seed(1)
    config = BertConfig(vocab_size=19, intermediate_size=32, **SHAPE)
    config.save_pretrained(folder)
    state = {f"bert.{name}": value for name, value in BertModel(config).state_dict().items()}
    for index in range(14):
        head = torch.nn.Linear(16, 2 if index == 13 else 4)
        state |= {f"linear_heads.{index}.{name}": v for name, v in head.state_dict().items()}
    if published:
        old = {f"module.{name}": value for name, value in state.items()}
        old["module.bert.embeddings.position_ids"] = torch.arange(512)[None]
        torch.save({"epoch": 3, "model_state_dict": old}, folder / "chexbert.pth")
    else:
        save_file({name: v.contiguous() for name, v in state.items()}, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("weighted", [False, True], ids=["alike", "by frequency"])
def test_bertscore_against_its_authors_package(tmp_path, weighted):
    theirs = pytest.importorskip("bert_score", reason="bert-score is not installed")
    folder = write_bertscore(tmp_path / "b")
    references = [b for _, b in PAIRS] if weighted else None
    scorer = theirs.BERTScorer(
        model_type=str(folder),
        num_layers=5,
        lang="en",
        idf=weighted,
        idf_sents=references,
        rescale_with_baseline=True,
        baseline_path=str(folder / "baseline.tsv"),
        use_fast_tokenizer=True,
        device="cpu",
    )
    expected = scorer.score([a for a, _ in PAIRS], [b for _, b in PAIRS])[2].tolist()
    ours = BertScore(folder, references=references).f1(PAIRS)
    assert ours == pytest.approx(expected, abs=1e-5)
    assert len(set(expected)) == 3


def test_bertscore_by_its_definition(tmp_path):
    folder = write_bertscore(tmp_path / "b", baseline=False)
    scorer = BertScore(folder, batch_size=2)
    (a, of_a), (b, _) = (scorer._embedded([text])[0] for text in PAIRS[0])
    assert of_a.tolist() == [0, *[1] * 4, 0]  # the first and last token are no words
    best = [max(float(x @ y) for y in b) for x in a[1:-1]]
    back = [max(float(x @ y) for x in a) for y in b[1:-1]]
    precision, recall = np.mean(best), np.mean(back)
    expected = 2 * precision * recall / (precision + recall)
    found = scorer.f1([*PAIRS, ("", "lungs"), ("lungs", " ")])
    assert found[0] == pytest.approx(expected, abs=1e-6)
    assert found[1] == pytest.approx(1, abs=1e-6)
    assert found[3:] == [0, 0]
    alone = [scorer.f1([pair])[0] for pair in PAIRS]
    assert found[:3] == pytest.approx(alone, abs=1e-6)  # padding changes nothing
    rescaled = BertScore(write_bertscore(tmp_path / "c")).f1(PAIRS)
    assert rescaled == pytest.approx([(one - 0.53) / (1 - 0.53) for one in alone], abs=1e-5)


def test_what_is_wrong_with_a_folder_is_said(tmp_path):
    with pytest.raises(ModelError, match="cannot be read"):
        BertScore(tmp_path)
    folder = write_bertscore(tmp_path / "b")
    with pytest.raises(ModelError, match="has no layer 7"):
        BertScore(folder, layer=7)
    (folder / "baseline.tsv").write_text("LAYER,P\n5,1")
    with pytest.raises(ModelError, match="tells no F of layer 5"):
        BertScore(folder)


def test_chexbert_reads_both_kinds_of_weights_and_no_code(tmp_path):
    safe = Chexbert(write_chexbert(tmp_path / "safe"), batch_size=2)
    published = Chexbert(write_chexbert(tmp_path / "published", published=True))
    texts = ["small effusion", "no effusion left right", "", "heart is enlarged ."]
    (there, vectors), (other, again) = safe.read(texts), published.read(texts)
    assert (there == other).all()
    assert vectors == pytest.approx(again, abs=1e-6)
    assert there.shape == (4, len(FINDINGS))
    assert 0 < there[[0, 1, 3]].mean() < 1
    assert not there[2].any()
    assert not vectors[2].any()
    torch.save({"model_state_dict": ModelError}, tmp_path / "published/chexbert.pth")
    with pytest.raises(ModelError, match="holds no weights alone"):
        Chexbert(tmp_path / "published")
    (tmp_path / "published/chexbert.pth").unlink()
    with pytest.raises(ModelError, match="there are no weights"):
        Chexbert(tmp_path / "published")


def test_chexbert_classes_by_hand(tmp_path):
    model = Chexbert(write_chexbert(tmp_path / "c"))
    with torch.no_grad():
        for index, head in enumerate(model.heads):  # every class once: blank, +, -, ?
            head.weight.zero_()
            head.bias.copy_(torch.eye(4)[index % 4][: len(head.bias)])
    there, _ = model.read(["lungs"])
    assert there[0].tolist() == [index % 4 in (1, 3) for index in range(14)]


def test_findings_f1_by_hand():
    """Cardiomegaly in both; pneumonia for edema; nothing in the second pair."""
    codes = np.zeros((2, 14), dtype=int)
    codes[0, [1, 6, 4]] = 3, 1, 2
    found = findings_f1(sum(map(counts, codes)))
    assert found == pytest.approx([1 / 2, 1 / 14, 2 / 3, 1 / 5])
    assert [pair_f1("a", one) for one in codes] == [1 / 2, 1]
    assert pair_f1(" ", codes[1]) == 0
    rng = np.random.default_rng(0)
    said, true = rng.random((2, 50, 14)) < 0.2
    found = findings_f1(sum(counts(one) for one in said + 2 * true))
    five = [FINDINGS.index(name) for name in FIVE]
    expected = [
        f1_score(true[:, columns], said[:, columns], average=average)
        for columns in (range(14), five)
        for average in ("micro", "macro")
    ]
    assert found == pytest.approx(expected)


def test_radcliq_by_hand():
    assert radcliq(Features(1, 1, 1)) == pytest.approx(PERFECT, abs=5e-4)
    assert radcliq(Features(0, 0, 0)) == pytest.approx(NOTHING, abs=5e-4)
    # At the means nothing is left; one scale of a feature is its weight.
    assert radcliq(Features(0.53792312, 0.61757256, 0.76479421)) == pytest.approx(0)
    assert radcliq(Features(0.84074896, 0.61757256, 0.76479421)) == pytest.approx(-0.377083683)
    assert radcliq(Features(0.53792312, 0.84188194, 0.76479421)) == pytest.approx(-0.3703001)
    assert radcliq(Features(0.53792312, 0.61757256, 1.01873812)) == pytest.approx(-0.252616218)


def test_scores_as_rewards():
    assert as_reward("radcliq", PERFECT) == 1
    assert as_reward("radcliq_published", NOTHING) == 0
    assert as_reward("radcliq", 4.0) == 0
    assert as_reward("radcliq", (PERFECT + NOTHING) / 2) == pytest.approx(0.5)
    assert [as_reward("bertscore", value) for value in (-0.3, 0.4, 1.0)] == [0, 0.4, 1]


def graph(*entities) -> dict:
    named = [
        {"tokens": tokens, "label": label, "relations": list(relations)}
        for tokens, label, *relations in entities
    ]
    return {"entities": {str(number): one for number, one in enumerate(named, 1)}}


REFERENCE = graph(
    ("effusion", "present", ["located_at", "2"]), ("pleura", "anatomy"), ("edema", "absent")
)


def test_radgraph_f1_by_hand():
    assert set(graph_f1(REFERENCE, REFERENCE).values()) == {1.0}
    flipped = graph(
        ("effusion", "absent", ["located_at", "2"]), ("pleura", "anatomy"), ("edema", "absent")
    )
    assert graph_f1(flipped, REFERENCE) == pytest.approx(
        {"simple": 2 / 3, "partial": 2 / 3, "complete": 2 / 3, "radcliq": (2 / 3 + 0) / 2}
    )
    alone = graph(("Effusion", "present"), ("pleura", "anatomy"))  # without the relation
    assert graph_f1(alone, REFERENCE) == pytest.approx(
        {"simple": 4 / 5, "partial": 2 / 5, "complete": 2 / 5, "radcliq": 4 / 10}
    )
    assert set(graph_f1(EMPTY, REFERENCE).values()) == {0.0}


def test_what_is_missing_is_not_run_and_never_0(tmp_path):
    for config in (ChestScoresConfig(), ChestScoresConfig(models=str(tmp_path))):
        scorers, reasons = load_scorers(config, ["lungs"])
        assert scorers == {}
        assert set(reasons) == set(METRICS)
        assert all(reason.startswith("not run: ") for reason in reasons.values())
    write_bertscore(tmp_path / "bertscore")
    scorers, reasons = load_scorers(ChestScoresConfig(models=str(tmp_path)))
    assert list(scorers) == ["bertscore"]
    assert scorers["bertscore"](PAIRS)[1] == pytest.approx(1, abs=1e-5)
    (tmp_path / "bertscore/model.safetensors").write_bytes(b"broken")
    with pytest.raises(Exception, match=r"bertscore|header"):
        load_scorers(ChestScoresConfig(models=str(tmp_path)))


def write_radgraph(folder: Path, encoder: Path) -> None:
    (folder / "vocabulary").mkdir(parents=True)
    (folder / "weights.th").write_bytes(b"")
    name = {"model_name": str(encoder)}
    config = {
        "dataset_reader": {"token_indexers": {"bert": name}},
        "model": {"embedder": {"token_embedders": {"bert": name}}},
    }
    (folder / "config.json").write_text(json.dumps(config))


def test_radcliq_with_all_its_models(tmp_path, monkeypatch):
    """The package's graphs are made up here: one entity per word."""

    seen = []

    class RadGraph:
        def __init__(self, model_type, model_cache_dir, cuda):
            assert (Path(model_cache_dir) / model_type / "weights.th").is_file()

        def __call__(self, texts):
            assert all(texts)
            seen.extend(texts)
            return {str(n): graph(*((w, "x") for w in t.split())) for n, t in enumerate(texts)}

    package = ModuleType("radgraph")
    package.RadGraph = RadGraph
    package.__spec__ = json.__spec__
    monkeypatch.setitem(sys.modules, "radgraph", package)
    write_bertscore(tmp_path / "radcliq_bertscore")
    write_chexbert(tmp_path / "chexbert")
    for name in ("radgraph", "radgraph-xl"):
        write_radgraph(tmp_path / name, tmp_path / "chexbert")
    config = ChestScoresConfig(models=str(tmp_path), batch_size=2)
    scorers, reasons = load_scorers(config, [b for _, b in PAIRS])
    assert set(reasons) == {"bertscore"}
    pairs = [*PAIRS, ("", "lungs are clear"), ("LUNGS are clear", "lungs are clear")]
    own = Models(config, [b for _, b in PAIRS])
    columns = {name: own.scorer(name)(pairs) for name in scorers}
    measured = [{name: column[n] for name, column in columns.items()} for n in range(len(pairs))]
    # Without relations the F1 of relations is 0, so that a perfect match has half of RadGraph.
    perfect = radcliq(Features(0.5, 1, 1))
    for name in ("radcliq", "radcliq_published"):
        assert measured[1][name] == pytest.approx(perfect, abs=1e-4)
        assert measured[3][name] == pytest.approx(NOTHING, abs=5e-4)  # features that are all 0
    assert measured[0]["radcliq"] != pytest.approx(measured[0]["radcliq_published"])
    assert measured[4]["radcliq_published"] == pytest.approx(perfect, abs=1e-4)
    assert measured[3]["chexbert"] == 0
    assert measured[0]["radgraph"] == pytest.approx(2 * 3 / 9)
    seen.clear()
    scorers["radcliq_published"]([("LUNGS " * 600, "Are")])
    assert seen == [("lungs " * 600)[:2048], "are"]
    assert "radcliq" in load_scorers(config)[1]  # not without the references


def test_radgraph_never_asks_the_network(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "radgraph", ModuleType("radgraph"))
    sys.modules["radgraph"].__spec__ = json.__spec__
    write_radgraph(tmp_path / "radgraph-xl", Path("microsoft/some-encoder"))
    with pytest.raises(ModelError, match="which is no folder"):
        load_scorers(ChestScoresConfig(models=str(tmp_path)))
    (tmp_path / "radgraph-xl/weights.th").unlink()
    with pytest.raises(ModelError, match=r"there is no weights\.th"):
        load_scorers(ChestScoresConfig(models=str(tmp_path)))

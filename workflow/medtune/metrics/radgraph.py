"""RadGraph F1: agreement of the entities and relations that a model finds in two reports.

The model is read by the package `radgraph`, which must be installed and is asked for graphs alone;
it is never let near the network. A graph is what it returns for one text: `entities`, by key a
mapping with `tokens`, `label` and `relations`, a list of (kind, key of the other entity).
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medtune.runtime.errors import ModelError
from medtune.runtime.files import read_json

Graph = Mapping[str, Any]
EMPTY: Graph = {"entities": {}}


def graph_f1(answer: Graph, reference: Graph) -> dict[str, float]:
    """Return RadGraph F1, each 0..1; 0 where a graph is empty.

    `simple`, `partial` and `complete` of Delbrouck et al., "Improving the factual correctness of
    radiology report generation", EMNLP findings 2022: entities; entities and whether they have
    relations; entities with each of their relations. `radcliq` as RadCliQ needs it (Yu et al.,
    Patterns 4, 2023): mean of the F1 of entities and of the F1 of relations.
    """
    if not answer["entities"] or not reference["entities"]:
        return dict.fromkeys(("simple", "partial", "complete", "radcliq"), 0.0)
    sets = {
        name: _f1(of(answer), of(reference))
        for name, of in (
            ("simple", _entities),
            ("partial", lambda graph: {(*_entity(e), bool(e["relations"])) for e in _all(graph)}),
            ("complete", _complete),
            ("relations", _relations),
        )
    }
    relations = sets.pop("relations")
    return sets | {"radcliq": (sets["simple"] + relations) / 2}


def _all(graph: Graph) -> list[Mapping[str, Any]]:
    return list(graph["entities"].values())


def _entity(entity: Mapping[str, Any]) -> tuple[str, str]:
    return entity["tokens"].lower(), entity["label"]


def _entities(graph: Graph) -> set[Any]:
    return {_entity(one) for one in _all(graph)}


def _relations(graph: Graph) -> set[Any]:
    return {
        (_entity(one), kind, _entity(graph["entities"][other]))
        for one in _all(graph)
        for kind, other in one["relations"]
    }


def _complete(graph: Graph) -> set[Any]:
    alone = {_entity(one) for one in _all(graph) if not one["relations"]}
    return alone | {(*one, kind, other[0]) for one, kind, other in _relations(graph)}


def _f1(answer: set[Any], reference: set[Any]) -> float:
    whole = len(answer) + len(reference)
    return 2 * len(answer & reference) / whole if whole else 0.0


def load_radgraph(folder: Path, device: str) -> Callable[[Sequence[str]], list[Graph]]:
    """Return a function from texts to their graphs.

    Args:
        folder: `config.json`, `vocabulary/` and `weights.th` of a RadGraph, named `radgraph` or
            `radgraph-xl`. The encoder that the configuration names must be a folder as well.
        device: `cpu` or `cuda`.

    Raises:
        ModelError: The package or a file is missing.
    """
    for name in ("config.json", "vocabulary", "weights.th"):
        if not (folder / name).exists():
            raise ModelError(folder, f"there is no {name}", "unpack the RadGraph archive there")
    config = read_json(folder / "config.json")
    for encoder in (
        config["dataset_reader"]["token_indexers"]["bert"]["model_name"],
        config["model"]["embedder"]["token_embedders"]["bert"]["model_name"],
    ):
        if not Path(encoder).is_dir():
            raise ModelError(
                folder / "config.json",
                f"names the encoder {encoder!r}, which is no folder",
                "put the encoder's configuration and tokenizer into a folder, and name that",
            )
    try:
        from radgraph import RadGraph
    except ImportError as error:
        raise ModelError(
            "radgraph", f"cannot be imported ({error})", "install radgraph==0.1.18"
        ) from None
    place = 0 if device == "cuda" else -1
    model = RadGraph(model_type=folder.name, model_cache_dir=str(folder.parent), cuda=place)

    def graphs(texts: Sequence[str]) -> list[Graph]:
        asked = [text for text in texts if text.strip()]
        found = model(asked) if asked else {}
        given = iter([found[str(number)] for number in range(len(asked))])
        return [next(given) if text.strip() else EMPTY for text in texts]

    return graphs

"""The section about chest films, from their sources to samples."""

from collections.abc import Iterator, Mapping
from typing import Literal

from pydantic import Field

from medtune.config.base import Count, Fault, Fraction, Section
from medtune.config.chest_images import FilmImagesConfig
from medtune.config.chest_llm import LlmConfig
from medtune.config.chest_sources import (
    ChestSourceConfig,
    ChestSplitsConfig,
    ChestVerificationConfig,
    FusionConfig,
)

# Kinds of sources -> the tasks that they have the annotations for.
TASKS: Mapping[str, tuple[str, ...]] = {
    "mimic_cxr": ("report_generation", "abnormality_classification", "conversation"),
    "chexpert": ("abnormality_classification",),
    "chexpert_plus": ("report_generation",),
    "chest_imagenome": ("anatomical_grounding",),
    "vindr_cxr": ("abnormality_grounding", "abnormality_detection"),
    "ms_cxr": ("phrase_grounding", "grounded_conversation"),
    "padchest_gr": ("phrase_grounding", "grounded_conversation"),
    "open_i": ("report_generation", "abnormality_classification", "conversation"),
    "nih_cxr14": ("abnormality_classification", "abnormality_grounding"),
    "rsna_pneumonia": ("abnormality_classification", "abnormality_grounding"),
    "siim_pneumothorax": ("abnormality_classification", "abnormality_grounding"),
    "padchest": ("abnormality_classification",),
    # What its columns tell of.
    "table": (
        *("report_generation", "abnormality_classification", "anatomical_grounding"),
        *("abnormality_grounding", "abnormality_detection", "phrase_grounding", "conversation"),
    ),
}

# Tasks whose texts a language model writes, or somebody else has.
WRITTEN = frozenset(("conversation", "grounded_conversation"))

# Kinds of sources -> the step that makes conversations of them. PadChest's reports are Spanish:
# there, the English sentences of the boxes are talked about.
TALKS: Mapping[str, Literal["conversation", "conversation_grounded", "conversation_sentences"]] = {
    "mimic_cxr": "conversation",
    "ms_cxr": "conversation_grounded",
    "padchest_gr": "conversation_sentences",
    "open_i": "conversation",
    "table": "conversation",
}

# Kinds whose labels were read from reports; those of the others were given by readers.
LABELED = (
    *("mimic_cxr", "chexpert", "chexpert_plus", "chest_imagenome", "ms_cxr"),
    *("open_i", "padchest"),
)


def tasks_of(kind: str, texts: bool = True) -> frozenset[str]:
    """Return the tasks that a kind of source is good for, with or without conversations."""
    return frozenset(TASKS.get(kind, ())) - (frozenset() if texts else WRITTEN)


class TextsConfig(Section):
    """What a language model writes for the data set; needs `llm`."""

    llm: LlmConfig = Field(description="The language model.")
    filter: bool = Field(
        True, description="Take from reports what the film cannot show: priors, views, history."
    )
    conversations: dict[str, Fraction] = Field(
        {},
        description="Source -> share of its films that get a conversation; else all. They are "
        f"made of the kinds {', '.join(TALKS)}.",
    )
    reasoning: Fraction = Field(
        0.0,
        description="Share of the training samples that get a reasoning which leads to the truth, "
        "for SFT before RL; needs `task.chain_of_thought`.",
    )


class FilmIndexConfig(Section):
    """What the index of films is made from."""

    sources: list[ChestSourceConfig] = Field(description="Sets of films.", min_length=1)
    verification: ChestVerificationConfig = Field(
        ChestVerificationConfig(), description="Check of the films."
    )


class FilmVerifyPart(Section):
    """What the look at the files of films needs."""

    sources: list[ChestSourceConfig] = Field(description="Sets of films.", min_length=1)


class FilmImagesPart(FilmVerifyPart):
    """What stored images are made from."""

    images: FilmImagesConfig = Field(FilmImagesConfig(), description="Films to stored images.")


class FilmSplitsPart(Section):
    """What decides the split of a patient."""

    splits: ChestSplitsConfig = Field(ChestSplitsConfig(), description="Who trains.")


class FilmTextsPart(FilmSplitsPart):
    """What decides the samples of a film, and the texts that a language model writes of it."""

    sources: list[ChestSourceConfig] = Field(description="Sets of films.", min_length=1)
    fusion: FusionConfig = Field(FusionConfig(), description="Fusion of several readers' boxes.")
    anatomy_questions_per_image: Count = Field(
        1, description="Parts of the body that a training film asks for."
    )
    test_anatomy_questions_per_image: Count | None = Field(
        None, description="The same of a test film, always the same ones; null: all it has."
    )
    texts: TextsConfig | None = Field(
        None,
        description="Texts by a language model; null: reports stay as they are, and there are no "
        "conversations.",
    )

    @property
    def has_texts(self) -> bool:
        """Whether there are tables of texts: a language model writes some, or others have."""
        given = (one.filtered_reports or one.conversations for one in self.sources)
        return self.texts is not None or any(given)

    def filters(self, source: ChestSourceConfig) -> bool:
        """Return whether the reports of a source are learned as they were filtered."""
        filtered = self.texts is not None and self.texts.filter
        return filtered or source.filtered_reports is not None

    def has_talks(self, source: ChestSourceConfig) -> bool:
        """Return whether there are conversations of a source, as far as it is good for them."""
        return self.texts is not None or source.conversations is not None


class FilmsConfig(FilmTextsPart, FilmImagesPart, FilmIndexConfig):
    """Chest films: sources, images, texts and samples."""

    def faults(self) -> Iterator[Fault]:
        """Yield sources that are named and not there, or of which what is wanted is not known."""
        names = [source.name for source in self.sources]
        policies = {s.name: s.labels for s in self.sources if s.kind in LABELED}
        if len({policy.model_dump_json() for policy in policies.values()}) > 1:
            found = f"{', '.join(policies)} have labels of a labeler, and need one policy"
            yield Fault(("sources",), found, "give all the same `labels`")
        named = {
            "splits.inherit_split_from": {*self.splits.inherit_split_from},
            "splits.test": {*self.splits.test},
        }
        if self.texts:
            allowed = self.texts.llm.endpoint.allow_remote
            named |= {
                "texts.conversations": set(self.texts.conversations),
                "texts.llm.endpoint.allow_remote": set(allowed),
            }
        for key, mentioned in named.items():
            if unknown := sorted(mentioned - set(names)):
                found = f"names {unknown}, but the sources are {names}"
                listed = (f"sources.{number}.name" for number in range(len(names)))
                yield Fault((key, *listed), found, "name a source")
        for number, source in enumerate(self.sources):
            yield from self._of_source(f"sources.{number}", source)

    def _of_source(self, key: str, source: ChestSourceConfig) -> Iterator[Fault]:
        """Yield what is wanted of a source and cannot be had of its kind."""
        name, kind = source.name, source.kind
        if not tasks_of(kind, self.has_talks(source)):
            known = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in TASKS.items())
            found = (
                f"source {name!r} is a {kind}, whose annotations are good for no "
                f"task{'' if self.texts else ' without films.texts'}; kinds and their tasks are "
                f"{known}"
            )
            yield Fault((f"{key}.kind", "texts"), found, "take the source away")
        if source.filtered_reports and not (
            "report_generation" in tasks_of(kind) or kind == "ms_cxr"
        ):
            found = f"{name!r}: a {kind} has no reports to be filtered"
            yield Fault((f"{key}.filtered_reports", f"{key}.kind"), found, "take it away")
        if source.conversations and kind not in TALKS:
            found = f"{name!r}: of a {kind} there are no conversations"
            yield Fault((f"{key}.conversations", f"{key}.kind"), found, "take it away")
        if self.texts and name in self.texts.conversations and kind not in TALKS:
            found = f"names {name!r}, but no conversations are made of a {kind}"
            remedy = f"take it away; they are made of {', '.join(TALKS)}"
            yield Fault(("texts.conversations", f"{key}.kind"), found, remedy)

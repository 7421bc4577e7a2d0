"""Splits are by patient, stratified, and have no leaks."""

import pytest

from medtune.config.data import SplitsConfig
from medtune.records.case import Case, Volume
from medtune.runtime.errors import DataError
from medtune.sources.brain.brats import LABELS
from medtune.sources.splits import assign_splits, audit


def make_case(patient: str, number: int, split: str | None = None) -> Case:
    volume = {"t1n": Volume(path="x")}
    return Case(
        source="s",
        case_id=f"{patient}-{number}",
        patient_id=patient,
        images=volume,
        mask="m",
        labels=LABELS,
        split=split,
    )


def test_splits_are_by_patient_and_do_not_depend_on_order():
    cases = [make_case(f"p{i:03d}", visit) for i in range(100) for visit in range(2)]
    splits = assign_splits(cases, SplitsConfig(val=0.1, test=0.2), seed=1)
    assert splits == assign_splits(cases[::-1], SplitsConfig(val=0.1, test=0.2), seed=1)
    assert splits != assign_splits(cases, SplitsConfig(val=0.1, test=0.2), seed=2)
    assert splits == assign_splits(cases, SplitsConfig(val=0.1, test=0.2, seed=1), seed=2)
    counts = {name: list(splits.values()).count(name) for name in ("train", "val", "test")}
    assert counts == {"train": 70, "val": 10, "test": 20}


def test_fixed_splits_are_kept_and_contradictions_refused():
    cases = [make_case("a", 0, "test"), make_case("b", 0, "train"), make_case("c", 0)]
    splits = assign_splits(cases, SplitsConfig(val=0, test=0), seed=1)
    assert splits == {"a": "test", "b": "train", "c": "train"}
    with pytest.raises(DataError, match=r"is prescribed to train, but s/a-0, .*, to test"):
        assign_splits([*cases, make_case("a", 1, "train")], SplitsConfig(), seed=1)


def test_patients_that_share_an_image_share_a_split():
    cases = [make_case(f"p{i}", 0) for i in range(40)]
    pairs = [(cases[i].id, cases[i + 20].id) for i in range(20)]
    splits = assign_splits(cases, SplitsConfig(val=0.25, test=0.25), seed=1, same_images=pairs)
    assert all(splits[f"p{i}"] == splits[f"p{i + 20}"] for i in range(20))
    assert len(set(splits.values())) == 3
    contradicting = [make_case("x", 0, "test"), make_case("y", 0, "train")]
    same = [[case.id for case in contradicting]]
    with pytest.raises(DataError, match="is prescribed to"):
        assign_splits(contradicting, SplitsConfig(), 1, same)


def test_a_source_can_be_put_into_one_split():
    cases = [make_case("a", 0), make_case("b", 0, "train")]
    splits = assign_splits(cases[:1], SplitsConfig(fixed={"s": "val"}), seed=1)
    assert splits == {"a": "val"}
    assert assign_splits(cases, SplitsConfig(fixed={"s": "val"}), 1)["b"] == "val"


def test_splits_are_stratified_by_source_and_lesion_size():
    cases = [
        make_case(f"p{i:03d}", 0).model_copy(update={"source": "ab"[i % 2]}) for i in range(240)
    ]
    volumes = {case.id: 0.0 if i % 10 == 0 else float(i) for i, case in enumerate(cases)}
    splits = assign_splits(cases, SplitsConfig(val=0.1, test=0.2), 1, (), volumes)
    counts = {name: list(splits.values()).count(name) for name in ("train", "val", "test")}
    assert counts == {"train": 168, "val": 24, "test": 48}
    for part, size in (("test", 0.2), ("val", 0.1)):
        chosen = [case for case in cases if splits[case.patient_id] == part]
        for source in "ab":
            own = [case for case in cases if case.source == source]
            lesions = sorted(volumes[c.id] for c in own if volumes[c.id])
            low, high = lesions[len(lesions) // 3], lesions[2 * len(lesions) // 3]
            for group in (
                [c for c in own if not volumes[c.id]],
                [c for c in own if 0 < volumes[c.id] < low],
                [c for c in own if volumes[c.id] >= high],
            ):
                inside = sum(case in chosen for case in group)
                assert abs(inside - size * len(group)) <= 1.5


@pytest.mark.parametrize(
    ("patients", "sources", "share"), [(40, 40, 0.1), (30, 10, 0.15), (12, 4, 0.25), (10, 10, 0.2)]
)
def test_small_strata_lose_no_split(patients, sources, share):
    cases = [
        make_case(f"p{i}", 0).model_copy(update={"source": f"s{i % sources}"})
        for i in range(patients)
    ]
    splits = assign_splits(cases, SplitsConfig(val=share, test=share), seed=1)
    counts = {name: list(splits.values()).count(name) for name in ("val", "test")}
    expected = int(share * patients + 0.5)
    assert counts == {"val": expected, "test": expected}


def test_the_audit_finds_leaks():
    a, b, c = make_case("a", 0), make_case("a", 1), make_case("c", 0)
    audit({"train": [a, b], "test": [c]}, [])
    with pytest.raises(DataError, match="its patient is in test and in train"):
        audit({"train": [a], "test": [b, c]}, [])
    with pytest.raises(DataError, match="shares an image"):
        audit({"train": [a, b], "test": [c]}, [(b.id, c.id)])

"""One split per patient over all chest-film sources; fusion of several readers' boxes."""

import itertools

import pytest
from chest_data import write_chest_data
from hypothesis import given
from hypothesis import strategies as st

from medtune.config.chest_sources import (
    ChestSourceConfig,
    ChestSplitsConfig,
    ChestVerificationConfig,
    FusionConfig,
)
from medtune.records.film import Film, Region
from medtune.runtime.errors import DataError
from medtune.sources.chest.fusion import fuse, fuse_boxes, iou
from medtune.sources.chest.index import read_films, write_index
from medtune.sources.chest.splits import (
    assign,
    check_leaks,
    film_split,
    published_splits,
    read_splits,
    write_splits,
)

NONE = ChestSplitsConfig(val=0)
SOURCES = ("mimic", "imagenome", "vindr")


def film(source: str, patient: str, split: str | None, image: str = "i", **more) -> Film:
    return Film(
        source=source,
        image_id=image,
        study_id="s",
        patient_id=patient,
        split=split,
        path="x",
        **more,
    )


def published(*films: Film) -> dict:
    found: dict = {}
    for one in films:
        own = found.get(one.patient_id, frozenset())
        found[one.patient_id] = own | {(one.source, one.split)}
    return found


def test_a_patient_tested_anywhere_trains_nowhere():
    films = [
        film("mimic", "mimic/p1", "train"),
        film("imagenome", "mimic/p1", "test"),
        film("mimic", "mimic/p2", "train"),
        film("imagenome", "mimic/p2", "train"),
    ]
    splits = assign(published(*films), NONE, seed=1)
    assert splits == {"mimic/p1": "test", "mimic/p2": "train"}
    used = [film_split(one, splits, NONE) for one in films]
    # MIMIC's film of p1 is withheld: it would leak, or enlarge MIMIC's published test set.
    assert used == [None, "test", "train", "train"]


def test_a_source_may_only_test():
    films = [
        film("mimic", "p1", "train"),
        film("plus", "p2", "train"),
        film("plus", "p1", "train"),
        film("mimic", "p3", "train"),
    ]
    config = ChestSplitsConfig(test=["plus"], val=0)
    splits = assign(published(*films), config, seed=1)
    used = [film_split(one, splits, config) for one in films]
    assert used == [None, "test", "test", "train"]
    check_leaks((one.patient_id, split) for one, split in zip(films, used, strict=True) if split)


def test_a_source_may_follow_the_others():
    films = [film("mimic", "p1", "train"), film("imagenome", "p1", "test")]
    alone = film("imagenome", "p2", "test")
    config = ChestSplitsConfig(inherit_split_from=["imagenome"], val=0)
    splits = assign(published(*films, alone), config, seed=1)
    assert [film_split(one, splits, config) for one in films] == ["train", "train"]
    assert splits["p2"] == "test"  # nobody else knows the patient


def test_validation_films_are_chosen_only_where_none_are_published():
    films = [film("vindr", f"v{i}", "train") for i in range(1000)]
    films += [film("vindr", f"t{i}", "test") for i in range(10)]
    films += [film("mimic", f"m{i}", "train") for i in range(1000)]
    films += [film("mimic", "m", "val")]
    config = ChestSplitsConfig(val=0.1)
    splits = assign(published(*films), config, seed=1)
    chosen = {name for name, split in splits.items() if split == "val"}
    assert 70 < len(chosen) < 130
    assert {name[0] for name in chosen - {"m"}} == {"v"}
    assert all(splits[f"t{i}"] == "test" for i in range(10))
    assert splits == assign(published(*films[::-1]), config, seed=1)
    assert splits != assign(published(*films), config, seed=2)
    # a hash of seed and patient: further patients move nobody
    assert splits.items() <= assign(published(*films, film("vindr", "w", None)), config, 1).items()


def test_patients_that_share_an_image_are_one():
    films = [film("a", "p1", "train"), film("a", "p2", "train"), film("b", "p3", "test")]
    splits = assign(published(*films), NONE, 1, same_images=[("p2", "p3"), ("p1", "p2"), ("p9",)])
    assert set(splits.values()) == {"test"}
    assert film_split(films[0], splits, NONE) is None


@given(
    st.lists(
        st.tuples(
            st.sampled_from(SOURCES),
            st.integers(0, 5),
            st.sampled_from(["train", "val", "test", None]),
        )
    ),
    st.sets(st.sampled_from(SOURCES)),
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=3),
)
def test_whatever_is_published_nothing_leaks_and_tests_stay(rows, follow, links):
    films = [film(source, f"p{patient}", split) for source, patient, split in rows]
    config = ChestSplitsConfig(inherit_split_from=sorted(follow), val=0.5)
    same = [(f"p{a}", f"p{b}") for a, b in links]
    splits = assign(published(*films), config, 3, same)
    used = [(one, film_split(one, splits, config)) for one in films]
    check_leaks((one.patient_id, split) for one, split in used if split)
    for one, split in used:
        if one.source not in follow and one.split == "test":
            assert split == "test"
        if one.source not in follow and one.split in ("train", "val"):
            assert split != "test"
    for a, b in same:
        assert splits.get(a, 0) == splits.get(b, 0) or not {a, b} <= splits.keys()


def test_a_leak_is_an_error_that_names_the_patients():
    used = [("mimic/p1", "train"), ("mimic/p2", "test"), ("mimic/p1", "test"), ("mimic/p3", "val")]
    with pytest.raises(DataError, match=r"1 in more than one split: mimic/p1 \(test, train\)"):
        check_leaks(used)
    check_leaks(used[1:])
    with pytest.raises(DataError, match="image abc"):
        check_leaks([("abc", "train"), ("abc", "val")], what="image")


def test_sets_about_mimic_do_not_leak_into_its_training(tmp_path):
    """ImaGenome's own test films were trained on in the published system."""
    data = write_chest_data(tmp_path / "data", patients=6, seed=0)
    splits = tmp_path / "data/imagenome/silver_dataset/splits"
    train, test = splits / "train.csv", splits / "test.csv"
    rows = train.read_text().splitlines()
    train.write_text("\n".join([rows[0], *rows[2:]]) + "\n")
    test.write_text(test.read_text() + rows[1] + "\n")  # a training patient of MIMIC
    paths = [tmp_path / name for name in ("films", "findings.parquet", "summary.json")]
    sources = [ChestSourceConfig(**source) for source in data.sources]
    write_index(sources, ChestVerificationConfig(), *paths)
    chosen = assign(published_splits(paths[0]), NONE, seed=1)
    write_splits(tmp_path / "splits.parquet", chosen)
    assert read_splits(tmp_path / "splits.parquet") == chosen
    films = list(read_films(paths[0]))
    naive = [(one.patient_id, str(one.split)) for one in films]
    with pytest.raises(DataError, match="mimic/p10000032"):
        check_leaks(naive)
    used = [(one, film_split(one, chosen, NONE)) for one in films]
    check_leaks((one.patient_id, split) for one, split in used if split)
    withheld = {(one.source, one.patient_id) for one, split in used if split is None}
    # the patient's other film is withheld too, from MIMIC and from MS-CXR
    assert withheld == {("mimic_cxr", "mimic/p10000032"), ("ms_cxr", "mimic/p10000032")}
    shared = {one.patient_id for one in films if one.source == "chexpert_plus"}
    assert shared < {one.patient_id for one in films if one.source == "chexpert"}


# Fusion. Two boxes of 10 x 10 that are shifted by 2 overlap by 80 / 120 = 2/3, by 5 by 50 / 150.


def shifted(by: float, size: float = 10) -> tuple[float, float, float, float]:
    return (by, 0.0, by + size, size)


def test_iou_by_hand():
    assert iou(shifted(0), shifted(2)) == pytest.approx(2 / 3)
    assert iou(shifted(0), shifted(5)) == pytest.approx(1 / 3)
    assert iou(shifted(0), shifted(10)) == 0
    assert iou((0, 0, 10, 10), (2, 2, 4, 4)) == pytest.approx(4 / 100)


def test_fusion_is_the_mean_of_what_readers_agree_on():
    drawn = [("R1", shifted(0)), ("R2", shifted(2)), ("R3", shifted(1))]
    assert fuse_boxes(drawn, FusionConfig(iou=0.5, min_readers=2)) == [(1, 0, 11, 10)]
    drawn = [("R1", (0, 0, 10, 10)), ("R2", (0, 0, 10, 12)), ("R3", (40, 40, 50, 50))]
    assert fuse_boxes(drawn, FusionConfig(iou=0.5, min_readers=2)) == [(0, 0, 10, 11)]
    assert fuse_boxes(drawn, FusionConfig(iou=0.5, min_readers=1)) == [
        (0, 0, 10, 11),
        (40, 40, 50, 50),
    ]
    assert fuse_boxes(drawn, FusionConfig(iou=0.5, min_readers=3)) == []


def test_the_threshold_decides_what_is_one_lesion():
    drawn = [("R1", shifted(0)), ("R2", shifted(5))]
    assert fuse_boxes(drawn, FusionConfig(iou=0.3, min_readers=1)) == [(2.5, 0, 12.5, 10)]
    assert fuse_boxes(drawn, FusionConfig(iou=0.4, min_readers=1)) == [shifted(0), shifted(5)]


def test_the_mean_moves_as_boxes_join():
    # the third overlaps the first by 6 / 14 = 0.43, but the mean of the first two by 7 / 13 = 0.54
    drawn = [("R1", shifted(0)), ("R2", shifted(2)), ("R3", shifted(4))]
    assert fuse_boxes(drawn, FusionConfig(iou=0.5, min_readers=3)) == [(2, 0, 12, 10)]


def test_two_boxes_of_one_reader_stay_two_lesions():
    drawn = [("R1", shifted(0)), ("R1", shifted(2)), ("R2", shifted(0)), ("R2", shifted(2))]
    assert fuse_boxes(drawn, FusionConfig(iou=0.1, min_readers=2)) == [shifted(0), shifted(2)]


boxes = st.tuples(*[st.integers(0, 40)] * 4).map(
    lambda v: (min(v[0], v[2]), min(v[1], v[3]), max(v[0], v[2]) + 1, max(v[1], v[3]) + 1)
)


def test_the_order_of_readers_does_not_matter():
    # in another order the outer two would be compared first, and be two lesions
    drawn = [("R1", shifted(0)), ("R2", shifted(4)), ("R3", shifted(2))]
    for mixed in itertools.permutations(drawn):
        assert fuse_boxes(mixed, FusionConfig(iou=0.5, min_readers=1)) == [(2, 0, 12, 10)]


@given(
    st.lists(st.tuples(st.sampled_from("abc"), boxes), max_size=12),
    st.randoms(use_true_random=False),
    st.integers(1, 3),
)
def test_fusion_does_not_depend_on_order_and_stays_inside(drawn, random, votes):
    config = FusionConfig(iou=0.4, min_readers=votes)
    fused = fuse_boxes(drawn, config)
    mixed = drawn.copy()
    random.shuffle(mixed)
    assert fuse_boxes(mixed, config) == fused
    for box in fused:
        for side in range(4):
            edges = [own[side] for _, own in drawn]
            assert min(edges) <= box[side] <= max(edges)


def read(split: str | None, *regions: Region) -> Film:
    return film("vindr", "v", split, width=100, height=100, regions=regions)


def drawn_by(reader: str | None, name: str, by: float) -> Region:
    return Region(kind="abnormality", name=name, box=shifted(by), reader=reader)


REGIONS = (
    drawn_by("R1", "Edema", 0),
    drawn_by("R2", "Edema", 2),
    drawn_by("R1", "Mass", 0),
    drawn_by("R2", "Cyst", 0),
)


def test_only_training_films_are_fused_and_by_name():
    fused = fuse(read("train", *REGIONS), FusionConfig(iou=0.5, min_readers=2))
    assert fused.regions == (drawn_by(None, "Edema", 1),)
    everything = fuse(read("train", *REGIONS), FusionConfig(iou=0.5, min_readers=1))
    assert [one.name for one in everything.regions] == ["Cyst", "Edema", "Mass"]
    assert fuse(read(None, *REGIONS), FusionConfig(iou=0.5, min_readers=2)).regions == fused.regions
    for split in ("val", "test"):
        assert fuse(read(split, *REGIONS), FusionConfig(min_readers=2)) == read(split, *REGIONS)


def test_boxes_of_nobody_are_untouched():
    consensus = read("train", drawn_by(None, "Edema", 0), drawn_by(None, "Edema", 1))
    assert fuse(consensus, FusionConfig()) == consensus


def test_boxes_outside_are_refused_after_fusion_too():
    outside = read("train", drawn_by("R1", "Edema", 95), drawn_by("R2", "Edema", 95))
    with pytest.raises(DataError, match="verify the source"):
        fuse(outside, FusionConfig())

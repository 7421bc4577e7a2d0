"""Small data that many tests share; everything is made here, nothing is downloaded."""

import os
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from medtune.config.data import (
    MediaConfig,
    PhantomConfig,
    SourceConfig,
    SplitsConfig,
    TargetConfig,
    TaskConfig,
    VerificationConfig,
)
from medtune.config.stages import AnnotateStage, ConvertStage
from medtune.config.training import TinyConfig
from medtune.dataset.annotate import annotate
from medtune.media.shard import convert_shard
from medtune.records.sample import Sample, iterate, load_split
from medtune.runtime.files import manifest_of, write_manifest
from medtune.sources.brain.phantom import write_phantom
from medtune.sources.index import read_shard, write_index
from medtune.sources.verify import gather, verify_shard

REPOSITORY = Path(__file__).resolve().parents[1]
REAL_DATA = REPOSITORY.parent / "shared" / "data"
MEDIA = MediaConfig(
    modalities=["t2f", "t1c", "t2w"],
    layout="rgb",
    crop_to_brain=True,
    tile_size=(32, 32),
    multiple_of=16,
)
# Files that take longest begin first; most of Slurm's time is waiting, beside which others run.
FIRST = (
    "slurm",
    "workflow",
    "films_workflow",
    "dvc",
    "wrong_input",
    "processes",
    "resume",
    "faults",
)
TINY = TinyConfig(hidden_size=64, layers=2, heads=2, mlp_size=96, vision_size=48)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {f"test_{name}": place for place, name in enumerate(FIRST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(FIRST)))


def phantom_source(root: Path) -> SourceConfig:
    return SourceConfig(
        name="phantom", kind="brats2023_gli", root=str(root), allow_empty_masks=True
    )


@pytest.fixture(scope="session")
def phantom_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "phantom"
    write_phantom(PhantomConfig(root=str(root), patients=24, shape=(20, 24, 10)), seed=3)
    return root


def prepare(root: Path, work: Path, splits: SplitsConfig, **source) -> Path:
    """Run all stages up to the data set on one source, by their own functions."""
    sources = [phantom_source(root).model_copy(update=source)]
    index, checked = work / "index/cases.parquet", work / "index/checked.parquet"
    summary, shard = work / "index/verification.json", work / "media/0000.parquet"
    write_index(sources, index)
    cases = read_shard(index, 0, 1000)
    verify_shard(cases, sources, VerificationConfig(), checked)
    gather([checked], splits, VerificationConfig(), work / "findings.parquet", summary)
    convert_shard(ConvertStage(media=MEDIA, task=TargetConfig()), checked, shard)
    for path, stage in ((checked, "verify_shard"), (summary, "findings"), (shard, "convert")):
        write_manifest(manifest_of(path), [path], {}, stage=stage)
    annotate(AnnotateStage(splits=splits, task=TaskConfig()), [shard], summary, work / "datasets")
    return work / "datasets"


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory, phantom_root: Path) -> Path:
    """A data set folder of 24 phantom patients."""
    return prepare(
        phantom_root, tmp_path_factory.mktemp("results"), SplitsConfig(val=0.2, test=0.25)
    )


@pytest.fixture(scope="session")
def samples(dataset: Path) -> list[Sample]:
    return list(iterate(load_split(dataset, "train")))


@pytest.fixture(scope="session")
def tumor(samples: list[Sample]) -> Sample:
    return next(sample for sample in samples if sample.truth["bbox_3d"] is not None)


@pytest.fixture(scope="session")
def healthy(samples: list[Sample]) -> Sample:
    return next(sample for sample in samples if sample.truth["bbox_3d"] is None)


# The modules that train are imported by the tests that train, and by no others: torch is slow.


long = pytest.mark.long
one_family = pytest.mark.parametrize(
    "family", ["qwen3_vl", pytest.param("qwen2_5_vl", marks=long)], indirect=True
)


@pytest.fixture(scope="session", params=["qwen2_5_vl", "qwen3_vl"])
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session")
def base(family: str, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that has learned nothing."""
    from training_stages import make_base

    folder = tmp_path_factory.mktemp(f"training-{family}") / "base"
    make_base(family, dataset, folder)
    return folder


@pytest.fixture(scope="session")
def trained(family: str, base: Path, dataset: Path) -> Path:
    """A model after a few steps of SFT."""
    from training_stages import sft_stage

    from medtune.training.sft import train_sft

    train_sft(sft_stage(family), base, dataset, base.parent / "sft")
    return base.parent / "sft"


@pytest.fixture(scope="session")
def released(family: str, base: Path, dataset: Path) -> Path:
    """The base model as others release theirs: bfloat16, and with settings for generation."""
    from training_stages import release

    return release(family, base, dataset)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the small experiment has run from nothing to report and export."""
    from small_experiment import small_config, snakemake

    folder = tmp_path_factory.mktemp("workflow")
    small_config(folder)
    for target in ("all", "export"):  # an evaluation that is there stands in the model card
        run = snakemake(folder, target)
        assert run.returncode == 0, run.stdout + run.stderr
    return folder

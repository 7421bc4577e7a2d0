"""Made films, and samples of every chest task; the texts are made too."""

from medtune.geometry.image import ImageGeometry
from medtune.records.film import Film, Region
from medtune.records.sample import Media, Sample, Turn
from medtune.sources.chest.labels import LABELS
from medtune.tasks.chest.samples import Extras, make_samples

GEOMETRY = ImageGeometry(source_size=(2000, 1400), size=(500, 350), frame_size=(512, 384))
MEDIA = Media(kind="image", path="f.png", width=512, height=384, frames=1, fps=0, sha256="0" * 64)
REGIONS = (
    ("anatomy", "right lung", (200, 200, 900, 1200)),
    ("anatomy", "left lung", (1100, 200, 1800, 1200)),
    ("anatomy", "Cardiac silhouette", (800, 600, 1400, 1200)),
    ("abnormality", "Nodule/Mass", (400, 400, 520, 500)),
    ("abnormality", "Nodule/Mass", (1500, 300, 1600, 420)),
    ("abnormality", "ILD", (300, 700, 800, 1100)),
    ("phrase", "There is a nodule in the right upper zone.", (400, 400, 520, 500)),
)
REPORT = "There is a nodule in the right upper zone. The heart is not enlarged. No pneumothorax."
TALK = (
    Turn(prompt="What do you see?", target="A nodule in the right upper zone."),
    Turn(prompt="Is there a pneumothorax?", target="No, I see none."),
)


def stored(box: tuple[float, ...], geometry: ImageGeometry = GEOMETRY) -> str:
    """A box of an original as the texts of samples hold it."""
    return f"<box>{', '.join(str(round(value)) for value in geometry.to_frame(box))}</box>"


def grounded(one: Film, geometry: ImageGeometry = GEOMETRY) -> tuple[Turn, ...]:
    """A conversation about the nodules of a film."""
    first, second = (stored(region.box, geometry) for region in one.regions[3:5])
    return (
        Turn(prompt="Where is the nodule?", target=f"At {first}."),
        Turn(prompt=f"Is {first} the only one?", target=f"No, there is another at {second}."),
    )


def film(number: int = 0, **changes) -> Film:
    """A film with regions, labels and everything else."""
    values = {
        "source": "made",
        "image_id": f"image{number}",
        "study_id": f"study{number}",
        "patient_id": f"made/p{number}",
        "split": None,
        "path": f"{number}.png",
        "width": 2000,
        "height": 1400,
        "labels": dict.fromkeys(LABELS, "absent") | {"Lung Lesion": "present"},
        "no_finding": False,
        "regions": tuple(
            Region(kind=kind, name=name, box=tuple(v + number for v in box))
            for kind, name, box in REGIONS
        ),
    }
    return Film(**values | changes)


def normal(number: int = 100) -> Film:
    """A film on which nothing is found."""
    return film(number, no_finding=True, labels=dict.fromkeys(LABELS, "absent"), regions=())


def samples(
    one: Film,
    split: str = "test",
    media: Media = MEDIA,
    geometry: ImageGeometry = GEOMETRY,
    **extras,
) -> list[Sample]:
    """All samples of a film."""
    told = {}
    if len(one.regions) == len(REGIONS):
        told = {"report": REPORT, "talk": TALK, "grounded_talk": grounded(one, geometry)}
    return list(make_samples(one, geometry, media, split, Extras(**told | extras)))

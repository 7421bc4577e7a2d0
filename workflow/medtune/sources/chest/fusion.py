"""Fusion of several readers' boxes on training films: weighted boxes fusion with votes.

After R. Solovyev, W. Wang, T. Gabruseva, Image and Vision Computing 107 (2021) 104117, with the
same weight for every reader: a box joins the lesion whose mean box it overlaps most, and the mean
is taken again. Two boxes of one reader are two lesions to that reader, and stay two.

RadVLM fuses at an IoU of 0.1 and keeps what a single reader drew; so does the default. Of the
15,365 pairs of film and class in VinDr-CXR's training table as Kaggle has it, 6,540 are of one
reader. With more votes, what too few readers drew is neither there nor absent: see `undecided`.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from medtune.config.chest_sources import FusionConfig
from medtune.records.film import Film, PixelBox, Region
from medtune.runtime.errors import DataError
from medtune.sources.chest.verify import clip_box


def fuse(film: Film, config: FusionConfig) -> Film:
    """Return a film with one box per lesion that enough readers drew.

    Films that their source publishes for validation or testing are not changed, and of others only
    boxes with a reader; boxes of one name and kind are fused among themselves. Of what is then
    `undecided`, no label says that it is absent, and the film is not without findings.

    Raises:
        DataError: The film's size is not known, or a box lies outside: it was not verified.
    """
    readers = {region.reader for region in film.regions if region.reader is not None}
    if film.split in ("val", "test") or not readers:
        return film
    groups: dict[tuple[str, str], list[Region]] = defaultdict(list)
    for region in film.regions:
        if region.reader is not None:
            groups[region.kind, region.name].append(region)
    fused = [region for region in film.regions if region.reader is None]
    for (_, name), regions in sorted(groups.items()):
        boxes = fuse_boxes([(one.reader or "", one.box) for one in regions], config)
        for box in boxes:
            if not (film.width and film.height) or clip_box(box, (film.width, film.height)) != box:
                raise DataError(
                    f"{film.source}/{film.image_id}",
                    f"{name} at {box} in {film.width}x{film.height}",
                    "verify the source before its boxes are fused",
                )
            fused.append(regions[0].model_copy(update={"box": box, "reader": None}))
    fused_film = film.model_copy(update={"regions": tuple(fused)})
    open_names = {name.lower() for name in undecided(film, fused_film)}
    if not open_names:
        return fused_film
    labels = {
        name: value
        for name, value in film.labels.items()
        if value != "absent" or name.lower() not in open_names
    }
    no_finding = None if film.no_finding else film.no_finding
    return fused_film.model_copy(update={"labels": labels, "no_finding": no_finding})


def undecided(film: Film, fused: Film) -> frozenset[str]:
    """Return the abnormalities that readers drew on a film, and none of which is left.

    Whether they are there is open: they are no negatives.
    """
    drawn = {region.name for region in film.regions if region.kind == "abnormality"}
    return frozenset(drawn - {one.name for one in fused.regions if one.kind == "abnormality"})


def fuse_boxes(drawn: Iterable[tuple[str, PixelBox]], config: FusionConfig) -> list[PixelBox]:
    """Return the mean boxes of lesions that at least `config.min_readers` readers drew, sorted.

    Args:
        drawn: (reader, box) of one name; their order does not matter.
        config: IoU above which boxes are one lesion, and votes.
    """
    lesions: list[dict[str, PixelBox]] = []  # reader -> box
    for reader, box in sorted(drawn, key=lambda one: (one[1], one[0])):
        overlaps = [
            (iou(box, mean_box(list(lesion.values()))), -number)
            for number, lesion in enumerate(lesions)
            if reader not in lesion
        ]
        best, number = max(overlaps, default=(0.0, 0))
        if best > config.iou:
            lesions[-number][reader] = box
        else:
            lesions.append({reader: box})
    means = [mean_box(list(one.values())) for one in lesions if len(one) >= config.min_readers]
    return sorted(means)


def mean_box(boxes: Sequence[PixelBox]) -> PixelBox:
    """Return the mean of each edge."""
    x1, y1, x2, y2 = (sum(edges) / len(boxes) for edges in zip(*boxes, strict=True))
    return x1, y1, x2, y2


def iou(first: PixelBox, second: PixelBox) -> float:
    """Return intersection over union of two boxes of positive area, 0..1."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second))
    return width * height / (areas - width * height)

"""Checks that every film must pass, whatever its source; no image is decoded here."""

import math
from pathlib import Path

from medtune.config.chest_sources import ChestVerificationConfig
from medtune.records.film import Film, PixelBox, Region
from medtune.sources.chest.images import locate
from medtune.sources.chest.issues import Issues


def check_film(
    film: Film, images: Path, config: ChestVerificationConfig, findings: Issues
) -> Film | None:
    """Return a film with its boxes clipped to the image, or None if it has an error.

    Of a part of the body such a fault is a warning, and its box alone is left out.

    Errors: image-missing, box-invalid, box-outside, name-empty. Warnings: image-renamed,
    size-unknown, box-clipped, box-duplicate.

    Args:
        film: As its source yields it.
        images: The source's folder of images.
        config: What is accepted.
        findings: Where findings go.
    """
    case = f"{film.source}/{film.image_id}"
    located = locate(film, images, findings)
    if located is None or not located.regions:
        return located
    film = located
    if film.size is None:
        found = f"{len(film.regions)} boxes, but no size of the original image"
        findings.warn("size-unknown", case, found, "both", "nothing (its boxes are left out)")
        return film.model_copy(update={"regions": ()})
    regions = [_check_region(case, one, film.size, config, findings) for one in film.regions]
    kinds = {region.kind for region, one in zip(film.regions, regions, strict=True) if one is None}
    if kinds - {"anatomy"}:
        return None
    kept = tuple(dict.fromkeys(one for one in regions if one is not None))
    faulty = regions.count(None)
    findings.leave_out(film.source, "box of the anatomy with a fault", faulty)
    again = len(regions) - faulty - len(kept)
    if again:
        findings.leave_out(film.source, "box that is there twice", again)
        findings.warn(
            "box-duplicate",
            case,
            f"{again} boxes twice, of one reader and name",
            "each once",
            "nothing (one of them is kept)",
        )
    return film.model_copy(update={"regions": kept})


def _check_region(
    case: str,
    region: Region,
    size: tuple[int, int],
    config: ChestVerificationConfig,
    findings: Issues,
) -> Region | None:
    x1, y1, x2, y2 = region.box
    shown = f"{region.name} at {[round(value, 1) for value in region.box]} in {size[0]}x{size[1]}"
    # Parts of the body are many and drawn by a machine: without one of them a film is still good.
    tell = findings.warn if region.kind == "anatomy" else findings.report
    if not region.name.strip():
        tell("name-empty", case, shown, "a name", "correct the annotation")
        return None
    if not all(map(math.isfinite, region.box)) or x1 >= x2 or y1 >= y2:
        expected = "x1 < x2 and y1 < y2"
        tell("box-invalid", case, shown, expected, "correct the annotation")
        return None
    out = max(-x1 / size[0], -y1 / size[1], x2 / size[0] - 1, y2 / size[1] - 1)
    if out <= 0:
        return region
    clipped = clip_box(region.box, size)
    if out > config.box_tolerance or clipped is None:
        expected = f"at most {config.box_tolerance:.0%} outside"
        tell("box-outside", case, shown, expected, "is it the right image?")
        return None
    findings.warn("box-clipped", case, shown, "a box inside the image", "nothing (it is clipped)")
    return region.model_copy(update={"box": clipped})


def clip_box(box: PixelBox, size: tuple[int, int]) -> PixelBox | None:
    """Return the part of a box inside an image of `size` (width, height), or None if none is."""
    (x1, y1, x2, y2), (width, height) = box, size
    x1, y1, x2, y2 = max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))
    return (x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None

"""One film: from the file of a source (DICOM, JPEG, PNG) to the stored image and its geometry."""

import io
import math
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.ExifTags import Base

from medtune.config.chest_images import FilmImagesConfig
from medtune.geometry.image import ImageGeometry, is_copy
from medtune.media.dicom import read_dicom
from medtune.media.dicom_header import GET_AGAIN
from medtune.media.gray import Gray, stretch, to_gray
from medtune.media.image_header import ALPHA, DEEP, check_header, image_header
from medtune.records.film import Film
from medtune.records.sample import Media
from medtune.runtime.errors import DataError
from medtune.runtime.files import atomic_path, sha256_bytes

SUFFIXES = {"png": ".png", "jpeg": ".jpg"}


def read_film(path: Path) -> Gray:
    """Return a film (rows, columns), 0 black to 255 white.

    Gray of 8 bits stays as it is, color becomes luma, and gray of 16 bits, which has no known
    range outside DICOM, is stretched between percentiles.

    Raises:
        DataError: The file cannot be read, is no film (see `check_header`), is transparent in
            places, or shows one gray value only.
    """
    header = image_header(path)
    if header.format == "DICOM":
        return read_dicom(path)
    check_header(path, header)
    try:
        with Image.open(path, formats=(header.format,)) as image:
            image.load()
            # Behind the pixels of a PNG, where its header could not be seen, there may be EXIF.
            turned = image.getexif().get(Base.Orientation, 1)
            check_header(path, header._replace(turned=turned))
            return _gray(path, image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(path, f"cannot be read as an image ({error})", GET_AGAIN) from None


def _gray(path: Path, image: Image.Image) -> Gray:
    if image.mode in ALPHA and image.getchannel("A").getextrema()[0] != 255:
        raise DataError(
            path,
            f"is transparent in places (mode {image.mode}): what is to be seen there is not known",
            "save it without transparency, or leave the film out",
        )
    values = np.asarray(image if image.mode == DEEP else image.convert("L"))
    if values.min() == values.max():
        raise DataError(path, f"shows nothing: every pixel is {values.min()}", GET_AGAIN)
    if image.mode != DEEP:
        return values
    return to_gray(stretch(values))


def plan_film(source_size: tuple[int, int], max_pixels: int, multiple_of: int) -> ImageGeometry:
    """Decide the sizes of the largest stored image that is allowed.

    Args:
        source_size: (width, height) of the original in pixels.
        max_pixels: Largest area of the stored image, padding included.
        multiple_of: What its sides are multiples of.
    """
    width, height = source_size
    cells = max_pixels // multiple_of**2
    scale = max(
        min(columns * multiple_of / width, cells // columns * multiple_of / height, 1.0)
        for columns in range(1, cells + 1)
    )
    size = max(1, round(width * scale)), max(1, round(height * scale))
    columns, rows = (math.ceil(side / multiple_of) for side in size)
    return ImageGeometry(
        source_size=source_size,
        size=size,
        frame_size=(columns * multiple_of, rows * multiple_of),
    )


def fit_film(film: Gray, geometry: ImageGeometry) -> Image.Image:
    """Resize a film (rows, columns) and add black at its right and bottom."""
    picture = Image.fromarray(film)
    if geometry.size != geometry.source_size:
        picture = picture.resize(geometry.size, Image.Resampling.LANCZOS)
    frame = Image.new("L", geometry.frame_size)
    frame.paste(picture)
    return frame


def placed(film: Film, geometry: ImageGeometry) -> bool:
    """Return whether the boxes of a film can be placed on its stored image."""
    return film.size == geometry.source_size


def encode_film(image: Image.Image, config: FilmImagesConfig) -> bytes:
    """Return the file's bytes; the same input gives the same."""
    buffer = io.BytesIO()
    options = {"quality": config.jpeg_quality} if config.format == "jpeg" else {}
    image.save(buffer, config.format, **options)
    return buffer.getvalue()


def stored_path(film: Film, config: FilmImagesConfig) -> Path:
    """Return where a film's stored image lies: `<source>/<image_id>.png`.

    Raises:
        DataError: Its id leads out of the source's folder.
    """
    path = Path(film.image_id + SUFFIXES[config.format])
    if path.is_absolute() or ".." in path.parts:
        raise DataError(film.image_id, "is no name of a file below a folder", "correct its table")
    return film.source / path


def store_film(
    film: Film, root: Path, folder: Path, config: FilmImagesConfig
) -> tuple[Media, ImageGeometry]:
    """Write the stored image of a film atomically, and return its record and geometry.

    The geometry is that of the original, whose size the source's tables say, or of the file where
    they say none, or one that the file cannot be a copy of: see `placed`.

    Args:
        film: The film.
        root: The source's folder of images.
        folder: Where `<source>/<image_id>.png` goes; the record's path is relative to it.
        config: How images are stored.

    Raises:
        DataError: The film cannot be used (see `read_film`).
    """
    image = read_film(root / film.path)
    size = image.shape[1], image.shape[0]
    geometry = plan_film(size, config.max_pixels, config.multiple_of)
    content = encode_film(fit_film(image, geometry), config)
    if film.size and is_copy(size, film.size):
        # The file is the original, or a copy of it: boxes count the original's pixels.
        geometry = geometry.model_copy(update={"source_size": film.size})
    path = stored_path(film, config)
    with atomic_path(folder / path) as temporary:
        temporary.write_bytes(content)
    width, height = geometry.frame_size
    media = Media(
        kind="image",
        path=str(path),
        width=width,
        height=height,
        frames=1,
        fps=0,
        sha256=sha256_bytes(content),
    )
    return media, geometry

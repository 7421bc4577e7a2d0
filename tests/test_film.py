"""Films to stored images, with boxes that move along, and again after a crash."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from dicom_files import make_dicom
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from medtune.config.chest_images import FilmImagesConfig
from medtune.geometry.image import copy_fault, is_copy
from medtune.media.film import placed, plan_film, read_film, store_film
from medtune.media.film_shard import ConvertedImage, convert_films, identical_films
from medtune.models.inputs import read_frames
from medtune.records.film import Film
from medtune.runtime.errors import DataError
from medtune.runtime.tables import read_records

CONFIG = FilmImagesConfig(max_pixels=128 * 128, multiple_of=32)
SIDES = st.integers(1, 5000)


def made_film(path: str, **changes) -> Film:
    values = {"source": "made", "image_id": Path(path).stem, "study_id": "s", "patient_id": "p"}
    return Film.model_validate(values | {"split": None, "path": path} | changes)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 200, (height, width)).astype(np.uint8)


@given(width=SIDES, height=SIDES, multiple_of=st.sampled_from([28, 32]))
def test_sizes(width, height, multiple_of):
    planned = plan_film((width, height), 262_144, multiple_of)
    (w, h), (frame_w, frame_h) = planned.size, planned.frame_size
    assert frame_w % multiple_of == frame_h % multiple_of == 0
    assert frame_w * frame_h <= 262_144
    assert 0 <= frame_w - w < multiple_of
    assert 0 <= frame_h - h < multiple_of
    assert w <= width
    assert h <= height
    if (w, h) != (width, height):
        scale = w / width if width > height else h / height
        assert abs(width * scale - w) <= 1  # the aspect ratio, to one pixel
        assert abs(height * scale - h) <= 1
        # No larger one is allowed: one patch more on the fuller side would be too many.
        more = scale * (1 + multiple_of / max(frame_w, frame_h))
        cells = [-(-side * more // multiple_of) for side in (width, height)]
        assert cells[0] * cells[1] * multiple_of**2 > 262_144


@pytest.mark.parametrize(
    ("source", "multiple_of", "size", "frame"),
    [
        ((2544, 3056), 32, (453, 544), (480, 544)),
        ((3000, 3000), 28, (504, 504), (504, 504)),
        ((300, 200), 32, (300, 200), (320, 224)),
        ((10, 10), 28, (10, 10), (28, 28)),
    ],
)
def test_sizes_by_hand(source, multiple_of, size, frame):
    planned = plan_film(source, 262_144, multiple_of)
    assert (planned.size, planned.frame_size) == (size, frame)


@pytest.mark.parametrize("kind", ["film.dcm", "film.png", "deep.png", "film.jpg"])
@pytest.mark.parametrize("shape", [(600, 400), (210, 330), (61, 45)])
def test_a_bright_spot_lies_in_its_converted_box(tmp_path, kind, shape):
    """Made rows x columns; x is the column: swapped axes, shifts or wrong scales would miss it."""
    height, width = shape
    pixels = np.full(shape, 40, np.uint8)
    x1, y1, x2, y2 = width // 2, height // 8, width // 2 + width // 4, height // 8 + height // 6
    pixels[y1:y2, x1:x2] = 240
    path = tmp_path / kind
    if kind == "film.dcm":
        make_dicom(path, pixels.astype(np.uint16) * 16, BitsStored=12)
    elif kind == "deep.png":
        Image.fromarray(pixels.astype(np.uint16) * 256).save(path)
    else:
        Image.fromarray(pixels).save(path)
    film = made_film(kind, width=width, height=height)
    media, geometry = store_film(film, tmp_path, tmp_path / "out", CONFIG)
    shown = read_frames(media, tmp_path / "out")[0, ..., 0]
    assert shown.shape == geometry.frame_size[::-1]
    box = geometry.to_frame((x1, y1, x2, y2))
    rows, columns = np.nonzero(shown > 140)
    found = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert np.abs(np.subtract(found, box)).max() <= 1
    right, bottom = geometry.size
    assert (shown[:, right:] == 0).all()
    assert (shown[bottom:] == 0).all()
    if kind in ("film.png", "film.jpg"):
        assert shown[:bottom, :right].min() > 0
    assert geometry.to_source(box) == pytest.approx((x1, y1, x2, y2))


def test_what_fits_is_stored_exactly_and_twice_the_same(tmp_path):
    pixels = picture(90, 70)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    media, _ = store_film(made_film("a.png"), tmp_path, tmp_path / "out", CONFIG)
    stored = np.asarray(Image.open(tmp_path / "out/made/a.png"))
    assert (stored[:90, :70] == pixels).all()
    assert store_film(made_film("a.png"), tmp_path, tmp_path / "again", CONFIG)[0] == media
    jpeg = CONFIG.model_copy(update={"format": "jpeg"})
    smooth = np.add.outer(np.arange(90), np.arange(70)).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / "b.png")
    store_film(made_film("b.png"), tmp_path, tmp_path / "out", jpeg)
    error = np.asarray(Image.open(tmp_path / "out/made/b.jpg"))[:90, :70].astype(int) - smooth
    assert 0 < np.abs(error).mean() < 1


def test_color_becomes_luma_and_deep_gray_is_spread(tmp_path):
    Image.fromarray(np.stack([picture(8, 8)] * 3, axis=-1)).save(tmp_path / "a.png")
    assert (read_film(tmp_path / "a.png") == picture(8, 8)).all()
    ramp = np.linspace(1000, 5000, 4000).astype(np.uint16).reshape(40, 100)
    Image.fromarray(ramp).save(tmp_path / "b.png")
    shown = read_film(tmp_path / "b.png")
    assert (shown[0, 0], shown[-1, -1]) == (0, 255)
    assert (np.diff(shown.ravel().astype(int)) >= 0).all()


def bad_images(folder: Path) -> dict[str, str]:
    """Write files that are no films, and return what is said about each."""
    folder.mkdir(exist_ok=True)
    image = Image.fromarray(picture(64, 48))
    turned = Image.Exif()
    turned[0x0112] = 6
    image.save(folder / "turned.jpg", exif=turned)
    clear = image.convert("RGBA")
    clear.putpixel((0, 0), (9, 9, 9, 0))
    clear.save(folder / "alpha.png")
    image.convert("P").save(folder / "palette.png")
    image.save(folder / "moving.png", save_all=True, append_images=[image.rotate(90)])
    Image.new("L", (64, 48), 9).save(folder / "constant.png")
    image.save(folder / "whole.png")
    (folder / "cut.png").write_bytes((folder / "whole.png").read_bytes()[:1500])
    image.save(folder / "whole.jpg")
    (folder / "cut.jpg").write_bytes((folder / "whole.jpg").read_bytes()[:900])
    image.save(folder / "film.bmp")
    (folder / "empty.png").write_bytes(b"")
    make_dicom(folder / "frames.dcm", picture(8, 8), NumberOfFrames=2, Rows=4)
    return {
        "turned.jpg": "EXIF orientation 6",
        "alpha.png": "mode RGBA",
        "palette.png": "mode P",
        "moving.png": "several frames",
        "constant.png": "every pixel is 9",
        "cut.png": "is truncated: 1500 bytes",
        "cut.jpg": "is truncated: 900 bytes",
        "film.bmp": "neither DICOM nor PNG nor JPEG: it is BMP",
        "empty.png": "neither DICOM nor PNG nor JPEG: it is empty",
        "frames.dcm": "several frames",
        "missing.png": "does not exist",
    }


def test_what_is_no_film_is_refused_by_name(tmp_path):
    for name, said in bad_images(tmp_path).items():
        with pytest.raises(DataError, match=said) as error:
            read_film(tmp_path / name)
        assert error.value.where == str(tmp_path / name)


@pytest.mark.parametrize("side", [120, 800])
def test_a_bright_spot_of_a_copy_lies_in_the_box_of_its_original(tmp_path, side):
    """The table's boxes count pixels of the original; the file is an even copy of it."""
    pixels = np.full((3056, 2544), 40, np.uint8)
    box = (600, 1800, 1100, 2300)
    pixels[box[1] : box[3], box[0] : box[2]] = 240
    small = Image.fromarray(pixels).resize((side, round(side * 3056 / 2544)))
    small.save(tmp_path / "a.png")
    film = made_film("a.png", width=2544, height=3056)
    media, geometry = store_film(film, tmp_path, tmp_path / "out", CONFIG)
    assert placed(film, geometry)
    shown = read_frames(media, tmp_path / "out")[0, ..., 0]
    rows, columns = np.nonzero(shown > 140)
    found = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert np.abs(np.subtract(found, geometry.to_frame(box))).max() <= 1
    assert geometry.to_source(geometry.to_frame(box)) == pytest.approx(box)


@pytest.mark.parametrize(
    ("size", "original", "cause"),
    [
        ((224, 269), (2544, 3056), None),
        ((2544, 3056), (2544, 3056), None),
        ((1024, 1024), (3000, 3000), None),
        ((224, 224), (2544, 3056), "padded or squeezed to a square, or cropped"),
        ((224, 272), (2544, 3056), "padded, squeezed or cropped, or another image"),
        ((3056, 2544), (2544, 3056), "turned by a quarter"),
    ],
)
def test_what_is_no_even_copy_has_no_place_for_boxes(tmp_path, size, original, cause):
    assert is_copy(size, original) == (cause is None)
    assert cause is None or copy_fault(size, original).endswith(cause)
    Image.fromarray(picture(*size[::-1])).save(tmp_path / "a.png")
    film = made_film("a.png", width=original[0], height=original[1])
    _, geometry = store_film(film, tmp_path, tmp_path / "out", CONFIG)
    assert placed(film, geometry) == (cause is None)
    assert geometry.source_size == (original if cause is None else size)


def test_an_id_cannot_lead_out_of_the_folder(tmp_path):
    Image.fromarray(picture(64, 48)).save(tmp_path / "a.png")
    for name in ("../a", "/a", "x/../../a"):
        with pytest.raises(DataError, match="no name of a file"):
            store_film(made_film("a.png", image_id=name), tmp_path, tmp_path / "out", CONFIG)


def films_in(folder: Path, count: int, side: int = 200) -> list[Film]:
    folder.mkdir(exist_ok=True)
    films = [made_film(f"{number:03d}.png") for number in range(count)]
    for number, film in enumerate(films):
        Image.fromarray(picture(side, side + number, number)).save(folder / film.path)
    return films


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def journal_of(folder: Path) -> Path:
    return folder.parent / f"{folder.name}.jsonl"


def convert(films: list[Film], root: Path, folder: Path, **changes) -> list[ConvertedImage]:
    config, output = CONFIG.model_copy(update=changes), folder / "0000.parquet"
    convert_films(config, films, root, output, journal_of(folder), code="1", processes=2)
    return read_records(output, ConvertedImage)


def test_broken_films_are_found_and_named(tmp_path, capfd):
    films = films_in(tmp_path / "raw", 3)
    bad = bad_images(tmp_path / "raw")
    films[1:1] = [made_film(name, image_id=name) for name in bad]
    with pytest.raises(DataError, match=rf"turned.jpg: .*{len(bad)} of {len(films)} films"):
        convert(films, tmp_path / "raw", tmp_path / "out")
    assert not (tmp_path / "out/0000.parquet").exists()
    said = capfd.readouterr().err
    for name, reason in bad.items():
        line = next(line for line in said.splitlines() if f"{name}:" in line)
        assert reason in line
    records = convert(
        films, tmp_path / "raw", tmp_path / "out", on_error="exclude", max_excluded_fraction=1
    )
    assert [record.image_id for record in records] == [film.image_id for film in films]
    for record in records:
        assert (record.error is None) == (record.image_id not in bad)
        assert (record.media is None) == (record.geometry is None) == (record.image_id in bad)
        assert str(tmp_path) not in (record.error or "")
    with pytest.raises(DataError, match=r"or raise `images.max_excluded_fraction`"):
        convert(
            films,
            tmp_path / "raw",
            tmp_path / "some",
            on_error="exclude",
            max_excluded_fraction=0.5,
        )
    # Other shards may hold sound films.
    only = convert(
        films[1:2], tmp_path / "raw", tmp_path / "one", on_error="exclude", max_excluded_fraction=1
    )
    assert [record.image_id for record in only] == ["turned.jpg"]


def test_identical_files_and_ids_are_reported(tmp_path, capfd):
    films = films_in(tmp_path / "raw", 3)
    (tmp_path / "raw/002.png").write_bytes((tmp_path / "raw/000.png").read_bytes())
    records = convert(films, tmp_path / "raw", tmp_path / "out")
    assert identical_films(records) == [("made/000", "made/002")]
    assert "identical files: made/000, made/002" in capfd.readouterr().err
    with pytest.raises(DataError, match=r"001: is the id of several films"):
        convert([films[1], films[0], films[1]], tmp_path / "raw", tmp_path / "out")


RUN = """
import json, sys
from pathlib import Path
from medtune.media.film_shard import convert_films
from medtune.config.chest_images import FilmImagesConfig
from medtune.records.film import Film
config, films = json.load(open(sys.argv[1]))
root, output, journal = map(Path, sys.argv[2:])
films = [Film.model_validate(film) for film in films]
convert_films(FilmImagesConfig(**config), films, root, output, journal, code="1", processes=2)
"""


def test_a_killed_shard_goes_on_where_it_was(tmp_path):
    films = films_in(tmp_path / "raw", 24, side=900)
    convert(films, tmp_path / "raw", tmp_path / "whole")
    order, output = tmp_path / "order.json", tmp_path / "cut/0000.parquet"
    order.write_text(json.dumps([CONFIG.model_dump(), [film.model_dump() for film in films]]))
    journal, limit = journal_of(tmp_path / "cut"), time.monotonic() + 60
    run = subprocess.Popen([sys.executable, "-c", RUN, order, tmp_path / "raw", output, journal])
    while time.monotonic() < limit and not (journal.is_file() and journal.stat().st_size > 1200):
        time.sleep(0.005)
    workers = psutil.Process(run.pid).children(recursive=True)
    run.send_signal(signal.SIGKILL)
    run.wait()
    gone, alive = psutil.wait_procs(workers, timeout=20)
    assert len(gone) >= 2
    assert not alive  # no worker outlives who started it
    assert not output.exists()
    done = {path: path.stat().st_mtime_ns for path in (tmp_path / "cut/made").glob("[0-9]*.png")}
    noted = [line for line in journal.read_bytes().splitlines() if line]
    assert 2 < len(noted) <= len(done) < 24
    journal.write_bytes(journal.read_bytes()[:-9])  # the last line is torn
    (damaged := min(done)).write_bytes(b"damaged")
    convert(films, tmp_path / "raw", tmp_path / "cut")
    again = [path for path, made in done.items() if path.stat().st_mtime_ns != made]
    assert damaged in again
    # Made again: the damaged one, that of the torn line, and what had not reached the journal.
    assert len(again) == len(done) - len(noted) + 2
    assert tree(tmp_path / "cut") == tree(tmp_path / "whole")


def test_only_changed_films_files_settings_and_code_are_done_again(tmp_path):
    films = films_in(tmp_path / "raw", 4)
    output, journal = tmp_path / "out/0000.parquet", journal_of(tmp_path / "out")

    def times(**changes) -> list[int]:
        code = changes.pop("code", "1")
        config = CONFIG.model_copy(update=changes)
        output.unlink(missing_ok=True)  # as a workflow does before it makes it again
        convert_films(config, films, tmp_path / "raw", output, journal, code=code, processes=1)
        return [(tmp_path / f"out/made/{film.image_id}.png").stat().st_mtime_ns for film in films]

    first = times()
    films = [film.model_copy(update={"view": "lateral"}) for film in films]
    films.reverse()
    assert times()[::-1] == first
    films.reverse()
    Image.fromarray(picture(100, 100)).save(tmp_path / "raw/001.png")
    second = times()
    assert [a == b for a, b in zip(first, second, strict=True)] == [True, False, True, True]
    third = times(multiple_of=28)
    assert not set(third) & set(second)
    assert not set(times(multiple_of=28, code="2")) & set(third)
    assert len(entries := journal.read_text().splitlines()) == len(films), entries


def test_a_killed_process_is_told(tmp_path):
    films = films_in(tmp_path / "raw", 4)
    order, output = tmp_path / "order.json", tmp_path / "cut/0000.parquet"
    order.write_text(json.dumps([CONFIG.model_dump(), [film.model_dump() for film in films]]))
    fault = "import os, sys\nif 'multiprocessing' in ' '.join(sys.orig_argv): os._exit(9)\n"
    (tmp_path / "sitecustomize.py").write_text(fault)
    path = f"{tmp_path}:{Path(__file__).parents[1] / 'workflow'}"
    run = subprocess.run(
        [sys.executable, "-c", RUN, order, tmp_path / "raw", output, tmp_path / "cut.jsonl"],
        env={"PYTHONPATH": path, "PATH": "/usr/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "000.png: a process was killed while it converted this film" in run.stderr
    assert run.returncode != 0

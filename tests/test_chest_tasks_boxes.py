"""Boxes on images as the families write them, and nothing else is read as a box."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medtune.geometry.image import ImageGeometry
from medtune.models.box_format import BOX_FORMATS, STORED, BoxError

GEOMETRY = ImageGeometry(source_size=(2000, 1400), size=(500, 350), frame_size=(512, 384))
SQUARE = ImageGeometry(source_size=(1000, 1000), size=(1000, 1000), frame_size=(1000, 1000))
BOX = (100.0, 50.0, 300.0, 200.0)
FORMS = BOX_FORMATS | {"samples": STORED}


@st.composite
def framed(draw):
    """A geometry with padding on either side, and a box inside its picture."""
    size = draw(st.tuples(st.integers(120, 3000), st.integers(120, 3000)))
    pad = draw(st.tuples(st.integers(0, 60), st.integers(0, 60)))
    geometry = ImageGeometry(
        source_size=size, size=size, frame_size=(size[0] + pad[0], size[1] + pad[1])
    )
    spans = []
    for limit in size:
        low = draw(st.floats(0, limit * 0.999))
        spans.append((low, draw(st.floats(low + 1e-6, limit))))
    return geometry, (spans[0][0], spans[1][0], spans[0][1], spans[1][1])


def read(form, text, geometry=GEOMETRY):
    ((start, end, content),) = form.find(text)
    assert start < end
    return form.read(content, geometry)


@pytest.mark.parametrize("family", FORMS)
@given(framed())
def test_a_box_comes_back_within_half_a_unit(family, drawn):
    (geometry, box), form = drawn, FORMS[family]
    back = read(form, f"It is at {form.write(box, geometry)}, I think.", geometry)
    for axis in (0, 1):
        side = max(geometry.frame_size) if form.square else geometry.frame_size[axis]
        unit = 1.0 if form.steps is None else side / form.steps
        thin = (box[axis + 2] - box[axis]) / unit < 1
        for edge in (axis, axis + 2):
            assert abs(back[edge] - box[edge]) <= unit * (1 + form.bins / 2 if thin else 0.5) + 1e-6
        assert 0 <= back[axis] < back[axis + 2] <= geometry.size[axis]


def test_forms_by_hand():
    written = {name: form.write(BOX, GEOMETRY) for name, form in FORMS.items()}
    assert written == {
        "qwen2_5_vl": "[100, 50, 300, 200]",
        "qwen3_vl": "[195, 130, 586, 521]",
        "llava_onevision": "[0.2, 0.13, 0.59, 0.52]",
        "gemma3": "[98, 195, 391, 586]",
        "llava_med": "[0.2, 0.1, 0.59, 0.39]",
        "chexagent": "<|box|>(20,13),(59,52)<|/box|>",
        "maira2": "<box><x19><y9><x58><y39></box>",
        "samples": "<box>100, 50, 300, 200</box>",
    }
    half = (500, 500, 750, 750)
    assert FORMS["llava_onevision"].write(half, SQUARE) == "[0.5, 0.5, 0.75, 0.75]"


@pytest.mark.parametrize("family", FORMS)
def test_the_convention_names_the_form_and_the_picture_s_ends(family):
    form = FORMS[family]
    said = form.convention(GEOMETRY)
    limits = {"qwen2_5_vl": (500, 350), "samples": (500, 350), "llava_onevision": (0.98, 0.92)}
    limits |= {"chexagent": (98, 92), "maira2": (97, 68)}
    limits |= {"gemma3": (977, 684), "llava_med": (0.98, 0.69)}
    x, y = limits.get(family, (977, 912))
    assert f"x goes up to {x} and y to {y} in" in said
    assert (said.index("y1") < said.index("x1")) == (family == "gemma3")


@pytest.mark.parametrize(
    "text",
    ["[ 100,50 ,300,  200 ]", "[100.0, 50, 300, 200]", '{"bbox_2d": [100, 50, 300, 200]}'],
)
def test_spaces_decimals_and_json_are_read(text):
    assert read(BOX_FORMATS["qwen2_5_vl"], text) == BOX


def test_gemma_s_json_is_read_in_rows_first():
    box = read(
        BOX_FORMATS["gemma3"], '```json\n[{"box_2d": [98, 195, 391, 586], "label": "x"}]\n```'
    )
    assert box == pytest.approx((99.8, 50.2, 300.0, 200.2), abs=0.1)


BAD = {
    "nan": "[nan, 1, 2, 3]",
    "infinite": "[0, 0, inf, 3]",
    "true": "[true, 0, 2, 3]",
    "exponent": "[0, 0, 1e2, 3]",
    "negative": "[-5, 0, 20, 30]",
    "three": "[1, 2, 3]",
    "five": "[1, 2, 3, 4, 5]",
    "words": "[left, right, up, down]",
    "reversed": "[300, 50, 100, 200]",
    "empty": "[100, 50, 100, 200]",
    "in the padding": "[100, 50, 505, 200]",
    "below the picture": "[100, 50, 300, 360]",
    "hex": "[0x1, 2, 3, 4]",
    "long": f"[0, 0, {'9' * 400}, 1]",
    "full width": "[\uff11, \uff12, \uff13, \uff14]",
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_box_is_named(name):
    form = BOX_FORMATS["qwen2_5_vl"]
    ((_, _, content),) = form.find(BAD[name])
    with pytest.raises(BoxError, match=r"not a box|reversed, empty or outside"):
        form.read(content, GEOMETRY)


def test_brackets_without_a_comma_are_prose():
    assert BOX_FORMATS["qwen2_5_vl"].find("as above [sic], see [1]") == []


@given(st.text(alphabet="[]<>|/box,.()-+ 0123456789einfaxy\n", max_size=60))
def test_no_text_breaks_the_reader(text):
    for form in FORMS.values():
        for start, end, content in form.find(text):
            assert content in text[start:end]
            try:
                box = form.read(content, GEOMETRY)
            except BoxError:
                continue
            assert 0 <= box[0] < box[2] <= 500
            assert 0 <= box[1] < box[3] <= 350


@pytest.mark.parametrize("family", BOX_FORMATS)
def test_boxes_of_samples_are_written_over(family):
    form = BOX_FORMATS[family]
    text = form.render("At <box>100, 50, 300, 200</box> and <box>0, 0, 10, 10</box>.", GEOMETRY)
    assert text == f"At {form.write(BOX, GEOMETRY)} and {form.write((0, 0, 10, 10), GEOMETRY)}."
    if family != "maira2":
        assert not re.search("<box>", text)

"""Streets: the same bytes everywhere, a long tail, right occlusion and boxes, five worlds that differ."""

import ast
import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pytest

import prunekit.data.scenes as scenes_package
from prunekit.data.scenes import CLASSES, DOMAINS, IGNORE, PALETTE, Scene, make_scene, object_crops
from prunekit.data.scenes.canvas import Camera, Canvas
from prunekit.data.scenes.classes import CAR, LIGHT, PERSON, POLE, SIGN, SKY, THINGS
from prunekit.data.scenes.layout import Dice, Thing, make_layout, raw_words
from prunekit.data.scenes.render import _boxes, paint_street
from prunekit.data.scenes.worlds import WORLDS
from prunekit.errors import InputError

# A change of these is a change of everybody's data: trained checkpoints and recorded results no longer fit.
PINNED = {
    (0, 0, "day", (64, 128)): "4f188c5ca6db3af7",
    (0, 1, "night", (64, 128)): "d189cc6dcb55a5e1",
    (1, 7, "fog", (64, 128)): "9c5afdd62e4c096e",
    (2, 12345, "snow", (64, 128)): "74e82359c3f6190b",
    (7, 3, "desert", (64, 128)): "73964378c016790f",
    (0, 0, "day", (256, 512)): "85d885280e47f43f",
    (0, 5, "night", (96, 160)): "e39c4116aff2ef1e",
    (18446744073709551615, 18446744073709551615, "snow", (33, 47)): "641ab72c1111cb06",
}


def digest(scene: Scene) -> str:
    parts = (scene.image, scene.mask, scene.boxes.astype("<i8"), scene.labels.astype("<i8"))
    return hashlib.sha256(b"".join(np.ascontiguousarray(p).tobytes() for p in parts)).hexdigest()[:16]


def share(domain: str, count: int = 120) -> np.ndarray:
    """Fraction of pixels per class over some scenes."""
    masks = np.stack([make_scene(11, i, domain=domain).mask for i in range(count)])
    return np.bincount(masks.ravel(), minlength=256) / masks.size


@pytest.mark.parametrize("seed, index, domain, size", PINNED)
def test_bytes_are_pinned(seed, index, domain, size):
    assert digest(make_scene(seed, index, domain=domain, size=size)) == PINNED[seed, index, domain, size]


def test_raw_stream_is_philox():
    """The words under every pixel are those of the paper's Philox-4x64-10, computed here from its definition."""
    whole = 2**64 - 1
    words, (k0, k1) = [1, 0, 0, 5], (3, 8)  # numpy counts up before the first block
    for _ in range(10):
        high0, low0 = divmod(0xD2E7470EE14C6C93 * words[0], 2**64)
        high1, low1 = divmod(0xCA5A826395121157 * words[2], 2**64)
        words = [high1 ^ words[1] ^ k0, low1, high0 ^ words[3] ^ k1, low0]
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) & whole, (k1 + 0xBB67AE8584CAA73B) & whole
    assert raw_words(3, 8, 5, 4).tolist() == words


def test_pixels_come_from_integers_only():
    """No true division and no float literal anywhere in the generator: floats may round differently elsewhere."""
    folder = Path(scenes_package.__file__).parent
    files = [f for f in folder.glob("*.py") if f.name != "dataset.py"]
    assert len(files) >= 8
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            assert not isinstance(node, ast.Div), f"{file.name} divides in floating point"
            assert not (isinstance(node, ast.Constant) and isinstance(node.value, float)), f"{file.name}: {node.value}"


def test_repeats_and_varies():
    state = np.random.get_state()[1].copy()  # noqa: NPY002 (the global state must stay untouched)
    one = make_scene(4, 9)
    assert digest(one) == digest(make_scene(4, 9))
    assert len({digest(s) for s in (one, make_scene(4, 10), make_scene(5, 9), make_scene(9, 4))}) == 4
    assert np.array_equal(state, np.random.get_state()[1])  # noqa: NPY002


def test_types_and_shapes():
    scene = make_scene(0, 3, size=(48, 80))
    assert scene.image.shape == (48, 80, 3) and scene.image.dtype == np.uint8
    assert scene.mask.shape == (48, 80) and scene.mask.dtype == np.uint8
    assert scene.boxes.dtype == scene.labels.dtype == np.int64
    assert scene.boxes.shape == (len(scene.labels), 4) and len(scene.labels) > 0
    assert set(np.unique(scene.mask)) <= {*range(12), IGNORE}


def test_long_tail():
    part = share("day")
    for name in ("road", "sky", "building"):
        assert part[CLASSES.index(name)] > 0.10, name
    for label in (POLE, LIGHT, SIGN):
        assert 0.001 < part[label] < 0.01, CLASSES[label]
    assert (part[:12] > 0.001).all(), dict(zip(CLASSES, part))
    assert 0.002 < part[IGNORE] < 0.05


@pytest.mark.parametrize("domain", DOMAINS)
def test_every_world_has_every_class(domain):
    assert (share(domain, 60)[:12] > 0.0005).all()


def test_poles_are_thin_and_stand_out():
    widths, contrasts = [], []
    for i in range(80):
        scene = make_scene(2, i)
        image = scene.image.astype(int)
        for row in range(64):
            line = np.flatnonzero(scene.mask[row] == POLE)
            for run in np.split(line, np.flatnonzero(np.diff(line) > 1) + 1):
                if 0 < len(run) <= 4 and run[0] > 0 and run[-1] < 127:  # longer ones are the arms of lamps
                    widths.append(len(run))
                    beside = image[row, [run[0] - 1, run[-1] + 1]].mean(0)
                    contrasts.append(np.abs(image[row, run].mean(0) - beside).mean())
    widths = np.array(widths)
    assert np.mean(widths == 1) > 0.5 and np.mean(widths <= 2) > 0.8
    assert 0.01 < np.mean(widths == 3) < 0.3  # some near ones
    assert np.median(contrasts) > 40  # grey levels


def layout_with(*things: Thing):
    """An empty street with these things."""
    camera = Camera(4096, 1700, 150)
    return dataclasses.replace(make_layout(0, 0), camera=camera, segments=(), things=things, bonnet=0)


def painted(*things: Thing) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """(labels, instances, seen) of a street with only these things; -1 where nothing was painted."""
    layout = layout_with(*things)
    canvas = Canvas((64, 128), 30000)
    nothing = canvas.material((0, 0, 0), SKY)
    paint_street(canvas, layout, WORLDS["day"])
    material = canvas.code_HW >> 1 & 0x7FFF
    label_M, number_M = (np.array([t[i] for t in canvas.traits]) for i in (0, 1))
    label = np.where(material == nothing, -1, label_M[material])
    return label, number_M[material], _boxes(number_M[material], canvas.instances)[1]


def test_near_things_hide_far_ones():
    near, far = Thing("car", 0, 800, 3), Thing("person", 40, 1000, 5)
    alone, behind = painted(near)[0] == CAR, painted(far)[0] == PERSON
    both = painted(far, near)[0]
    assert (alone & behind).any()  # they do overlap on the picture
    assert np.array_equal(both == CAR, alone)
    assert np.array_equal(both == PERSON, behind & ~alone)
    assert np.array_equal(painted(near, far)[0], both)  # the order of the list has no say


def test_hidden_things_have_no_box():
    car, child = Thing("car", 0, 700, 3), Thing("person", 0, 1150, 8)
    label, _, seen = painted(child, car)
    assert not (label == PERSON).any() and len(seen) == 1
    assert len(painted(child)[2]) == 1


def test_things_shrink_with_distance():
    tall = [np.ptp(np.nonzero(painted(Thing("person", 100, depth, 5))[0] == PERSON)[0]) + 1 for depth in (600, 1200)]
    assert 1.7 < tall[0] / tall[1] < 2.4


def test_walls_hide_what_is_behind_them():
    """A building's facade covers the skyline; a thing in front of the facade covers the facade."""
    layout = make_layout(0, 1)
    wall = next(s for s in layout.segments if s.kind == "building" and s.near > 500)
    person = Thing("person", wall.side * (layout.edge(wall.side) - 60), (wall.near + wall.far) // 2, 5)
    street = dataclasses.replace(layout, segments=(wall,), things=(person,), bonnet=0)
    alone = dataclasses.replace(street, segments=())
    counts = []
    for view in (street, alone):
        canvas = Canvas((64, 128), 30000)
        canvas.material((0, 0, 0), SKY)
        paint_street(canvas, view, WORLDS["day"])
        labels = np.array([t[0] for t in canvas.traits])[canvas.code_HW >> 1 & 0x7FFF]
        counts.append(int((labels == PERSON).sum()))
    assert counts[0] == counts[1] > 0


@pytest.mark.parametrize("index", range(25))
def test_boxes_fit_the_mask(index):
    scene = make_scene(6, index, domain=DOMAINS[index % 5])
    covered = np.zeros((12, 64, 128), bool)
    for (x0, y0, x1, y1), label in zip(scene.boxes, scene.labels):
        assert 0 <= x0 < x1 <= 128 and 0 <= y0 < y1 <= 64 and label in THINGS
        inside = scene.mask[y0:y1, x0:x1] == label
        assert inside[0].any() and inside[-1].any() and inside[:, 0].any() and inside[:, -1].any()
        covered[label, y0:y1, x0:x1] = True
    for label in THINGS:
        assert not ((scene.mask == label) & ~covered[label]).any(), f"{CLASSES[label]} pixels outside every box"


def test_boxes_against_a_loop():
    number = np.zeros((6, 8), int)
    number[1:4, 2:5], number[5, 7], number[2, 2] = 1, 3, 4
    boxes, seen = _boxes(number, 5)
    assert seen == [1, 3, 4]
    for box, n in zip(boxes.tolist(), seen):
        rows, columns = np.nonzero(number == n)
        assert box == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_same_street_in_every_world():
    day = make_scene(8, 2)
    for domain in ("night", "fog", "snow"):
        other = make_scene(8, 2, domain=domain)
        assert (other.mask == day.mask).mean() > 0.995
        assert np.array_equal(other.labels, day.labels)


def test_worlds_look_different():
    image = {d: np.stack([make_scene(7, i, domain=d).image for i in range(20)]).astype(float) for d in DOMAINS}
    for i, one in enumerate(DOMAINS):
        for other in DOMAINS[i + 1 :]:
            assert np.abs(image[one] - image[other]).mean() > 20, (one, other)
    mean = {d: x.mean((0, 1, 2)) for d, x in image.items()}
    assert mean["night"].mean() < 0.6 * mean["day"].mean()
    assert image["fog"].std() < 0.75 * image["day"].std()
    assert mean["desert"][0] - mean["desert"][2] > 40 > mean["day"][0] - mean["day"][2]
    assert mean["snow"].mean() > mean["day"].mean() + 10


def test_geometry_is_the_same_at_every_size():
    small, big = make_scene(3, 5), make_scene(3, 5, size=(256, 512))
    assert (big.mask[2::4, 2::4] == small.mask).mean() > 0.95
    assert np.abs(big.image[2::4, 2::4].astype(int) - small.image).mean() < 16
    assert len(big.labels) >= len(small.labels)


def test_crops():
    scene = make_scene(0, 1)
    crops, labels = object_crops(scene, size=24)
    side = (scene.boxes[:, 2:] - scene.boxes[:, :2]).max(1)
    assert crops.shape == ((side >= 4).sum(), 24, 24, 3) and crops.dtype == np.uint8
    assert np.array_equal(labels, scene.labels[side >= 4])
    everything, _ = object_crops(scene, size=8, min_side=1)
    assert len(everything) == len(scene.labels) > len(crops)


def test_crop_shows_its_object():
    image = np.zeros((40, 60, 3), np.uint8)
    image[10:18, 20:28] = (9, 99, 199)
    scene = Scene(image, np.zeros((40, 60), np.uint8), np.array([[20, 10, 28, 18], [52, 0, 60, 8]]), np.array([10, 9]))
    crops, labels = object_crops(scene, size=12)  # 8 pixels and a margin of 2 all round: one to one
    assert labels.tolist() == [10, 9]
    assert (crops[0, 2:10, 2:10] == (9, 99, 199)).all()
    assert (crops[0] == (9, 99, 199)).all(-1).sum() == 64
    assert not crops[1].any()  # in the corner: the border is repeated


def test_no_things_no_crops():
    bare = Scene(np.zeros((16, 16, 3), np.uint8), np.zeros((16, 16), np.uint8), np.zeros((0, 4), int), np.zeros(0, int))
    crops, labels = object_crops(bare)
    assert crops.shape == (0, 32, 32, 3) and labels.shape == (0,)


def test_dice_stay_in_range():
    dice = Dice(1, 2, 0)
    assert {dice.between(3, 5) for _ in range(60)} == {3, 4, 5}
    near = [dice.near(0, 1000) for _ in range(200)]
    assert min(near) >= 0 and max(near) <= 1000 and np.median(near) < 300


def test_camera_projects_by_similar_triangles():
    camera = Camera(4096, 1700, 200)
    assert camera.x(100, 1000) - 4096 == 2 * (camera.x(100, 2000) - 4096)
    assert camera.y(200, 1234) == 1700  # eye height is on the horizon at every distance


def test_palette():
    assert PALETTE.shape == (12, 3) and len(np.unique(PALETTE, axis=0)) == 12 == len(CLASSES) == len(set(CLASSES))
    with pytest.raises(ValueError, match="read-only"):
        PALETTE[0] = 0


@pytest.mark.parametrize(
    "kwargs, says",
    [
        ({"domain": "mars"}, "no domain 'mars'.*day, night"),
        ({"seed": -1}, "seed is -1"),
        ({"index": 2**64}, "index is"),
        ({"size": (8, 128)}, "size is"),
        ({"size": (64,)}, "size is"),
        ({"size": (64, 5000)}, "size is"),
    ],
)
def test_bad_arguments(kwargs, says):
    args = {"seed": 0, "index": 0} | kwargs
    with pytest.raises(InputError, match=says):
        make_scene(args.pop("seed"), args.pop("index"), **args)


def test_bad_crop_size():
    with pytest.raises(InputError, match="crop size is 0"):
        object_crops(make_scene(0, 0), size=0)

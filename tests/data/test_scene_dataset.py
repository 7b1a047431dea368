"""SceneDataset: types, mixing of worlds, pickling, transforms."""

import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from prunekit.data.scenes import SceneBoxes, SceneDataset, make_scene, stack_images
from prunekit.data.transforms import eval_transform, normalize, train_transform
from prunekit.errors import InputError


def test_item_is_the_scene():
    data = SceneDataset(3, seed=5, size=(32, 64))
    scene = make_scene(5, 2, size=(32, 64))
    image, mask = data[2]
    assert len(data) == 3 and image.dtype == torch.float32 and mask.dtype == torch.int64
    assert torch.equal(image, normalize(torch.from_numpy(scene.image).permute(2, 0, 1)))
    assert np.array_equal(mask.numpy(), scene.mask)
    assert data.images.dtype == data.masks.dtype == np.uint8


def test_worlds_take_turns():
    data = SceneDataset(5, domain=("day", "night"), size=(32, 64))
    for i, domain in enumerate(("day", "night", "day", "night", "day")):
        assert np.array_equal(data.images[i], make_scene(0, i, domain=domain, size=(32, 64)).image)


def test_splits_share_no_picture():
    first, second = SceneDataset(6, seed=0, size=(32, 64)), SceneDataset(6, seed=1, size=(32, 64))
    assert not (first.images[:, None] == second.images[None]).all(axis=(2, 3, 4)).any()


def test_pickle_and_loader():
    data = pickle.loads(pickle.dumps(SceneDataset(4, size=(32, 64), transform=eval_transform())))
    image, mask = next(iter(DataLoader(data, batch_size=4)))
    assert image.shape == (4, 3, 32, 64) and mask.shape == (4, 32, 64)


def test_transform_gets_bytes_and_gives_plain_tensors():
    from torchvision import tv_tensors

    seen = []

    def spy(image, mask):
        seen.append((type(image), image.dtype, type(mask)))
        return image.float(), mask

    image, mask = SceneDataset(1, size=(32, 64), transform=spy)[0]
    assert seen == [(tv_tensors.Image, torch.uint8, tv_tensors.Mask)]
    assert type(image) is type(mask) is torch.Tensor


def test_eval_transform_equals_no_transform():
    plain, transformed = SceneDataset(1, size=(32, 64)), SceneDataset(1, size=(32, 64), transform=eval_transform())
    torch.testing.assert_close(plain[0][0], transformed[0][0])
    assert torch.equal(plain[0][1], transformed[0][1])


def test_training_items_have_the_crops_size():
    image, mask = SceneDataset(1, size=(32, 64), transform=train_transform((48, 40)))[0]
    assert image.shape == (3, 48, 40) and mask.shape == (48, 40)
    assert image.dtype == torch.float32 and mask.dtype == torch.int64


def test_asking_beyond_the_end_stops_iteration():
    assert len(list(SceneDataset(2, size=(16, 32)))) == 2  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    "count, kwargs, says",
    [(0, {}, "count is 0"), (1, {"domain": ()}, "domain is empty"), (1, {"domain": ("day", "moon")}, "'moon'")],
)
def test_bad_arguments(count, kwargs, says):
    with pytest.raises(InputError, match=says):
        SceneDataset(max(count, 2) if "moon" in says else count, **kwargs)


def test_boxes_are_those_of_the_scene_and_a_batch_keeps_them_apart():
    data = SceneBoxes(4, seed=5)
    loader = DataLoader(pickle.loads(pickle.dumps(data)), batch_size=4, collate_fn=stack_images)
    images, targets = next(iter(loader))
    assert images.shape == (4, 3, 64, 128)
    assert torch.equal(images, torch.stack([SceneDataset(4, seed=5)[i][0] for i in range(4)]))
    for i, (boxes, labels) in enumerate(targets):
        scene = make_scene(5, i)
        assert boxes.dtype == torch.float32 and np.array_equal(boxes.numpy(), scene.boxes)
        assert np.array_equal(labels.numpy(), scene.labels)
    assert len({len(labels) for _, labels in targets}) > 1, "scenes with unlike numbers of objects are the point"
    with pytest.raises(InputError, match="at least one scene"):
        SceneBoxes(0)

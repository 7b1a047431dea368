"""How fast scenes are made. Run with `make bench`; the name keeps it out of ordinary test runs."""

import time

import pytest

from prunekit.data.scenes import DOMAINS, SceneDataset, make_scene

BATCH = 50


@pytest.mark.parametrize("domain", DOMAINS)
def test_scenes_per_second(domain):
    """At least 150 scenes a second on one core at 64 x 128: best of five batches, processor time."""
    make_scene(0, 0, domain=domain)
    seconds = []
    for _ in range(5):
        start = time.process_time()
        for i in range(BATCH):
            make_scene(9, i, domain=domain)
        seconds.append(time.process_time() - start)
    rate = BATCH / min(seconds)
    print(f"{domain}: {rate:.0f} scenes/s")
    assert rate >= 150


def test_items_per_second():
    """A cached item costs far less than a training step: at least 2,000 a second."""
    data = SceneDataset(64)
    start = time.process_time()
    for _ in range(5):
        for i in range(64):
            data[i]
    rate = 320 / (time.process_time() - start)
    print(f"items: {rate:.0f}/s")
    assert rate >= 2000

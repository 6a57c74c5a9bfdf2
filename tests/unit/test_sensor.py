"""Noise of a camera: measured where it is known, added where it is asked for."""

from __future__ import annotations

import numpy as np
import pytest

from rsgen.sensor import SensorNoise, add_noise, level, noise_covariance

MIXED = np.array([[1.0, 0.7, 0.7], [0.7, 1.0, 0.7], [0.7, 0.7, 1.0]])


def ground(side: int = 128) -> np.ndarray:
    """Slopes and a few hard edges, no noise."""
    y, x = np.mgrid[0:side, 0:side]
    image = np.stack([60 + x / 2, 80 + y / 3, 90 + (x + y) / 5], axis=-1)
    image[20:50, 30:90] += 60
    return np.rint(image).astype(np.uint8)


def noisy(sigma: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    noise = rng.multivariate_normal(np.zeros(3), sigma**2 * MIXED, (128, 128))
    return np.clip(np.rint(ground() + noise), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("sigma", [2.0, 5.0], ids=str)
def test_known_noise_is_found_among_edges(sigma: float) -> None:
    """An estimate that takes edges for noise, or channels for independent, is far off."""
    found = noise_covariance(noisy(sigma))
    assert level(found) == pytest.approx(sigma, rel=0.15)
    assert found[0, 1] / found[0, 0] == pytest.approx(0.7, abs=0.12)
    assert level(noise_covariance(ground())) < 0.5


def test_images_get_the_noise_that_was_measured() -> None:
    """Levels and their spread come back; what an image has already is not added again."""
    profile = SensorNoise.measured([noisy(s, k) for k, s in enumerate((2, 3, 4, 5, 6))])
    assert profile is not None and SensorNoise.from_json(profile.to_json()) == profile
    rng = np.random.default_rng(1)
    made = [add_noise(noisy(1.0, k), profile.draw(rng), rng) for k in range(40)]
    again = SensorNoise.measured(made)
    assert again is not None
    assert again.levels[3] == pytest.approx(profile.levels[3], rel=0.2)
    assert again.levels[0] < 0.75 * again.levels[-1]
    assert np.allclose(again.channels, profile.channels, atol=0.15)


def test_noise_follows_its_seed_and_is_never_taken_away() -> None:
    wanted = SensorNoise.of_level(4.0).draw(np.random.default_rng(0))
    one, other, third = (add_noise(ground(), wanted, np.random.default_rng(s)) for s in (1, 1, 2))
    assert (one == other).all() and (one != third).any()
    rough = noisy(8.0)
    assert np.abs(add_noise(rough, wanted, np.random.default_rng(1)).astype(int) - rough).max() == 0


def test_nothing_to_measure() -> None:
    assert SensorNoise.measured([]) is None
    assert SensorNoise.measured([np.full((64, 64, 3), 9, np.uint8)]) is None
    assert level(noise_covariance(np.zeros((8, 90, 3), np.uint8))) == 0
    with pytest.raises(ValueError, match="levels"):
        SensorNoise.from_json({"levels": [1.0], "channels": [[1, 0, 0]] * 3})


def test_areas_without_data_do_not_count() -> None:
    """Catches a black border that passes for a camera without noise."""
    cut = noisy(4.0)
    cut[: cut.shape[0] // 2] = 0
    assert level(noise_covariance(cut)) == pytest.approx(4.0, rel=0.25)

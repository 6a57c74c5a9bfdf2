"""Any seed, any side, any ground sampling: a scene is drawn."""

from __future__ import annotations

import pytest

from rsgen.scenes import SCENE_STYLES, SCENE_TYPES, render_scene


@pytest.mark.parametrize("scene", SCENE_TYPES)
@pytest.mark.parametrize("gsd_m", [0.3, None, 1.0], ids=["fine", "own", "coarse"])
def test_small_pictures_are_drawn_too(scene: str, gsd_m: float | None) -> None:
    """Catches strips of ground that turn inside out where a picture has no room for them."""
    for k, size in enumerate((32, 40, 48, 64, 100)):
        for seed in range(3):
            style = SCENE_STYLES[seed % len(SCENE_STYLES)]
            image, layout = render_scene(
                7919 * seed + size + k, size, scene=scene, gsd_m=gsd_m, style=style
            )
            assert image.shape == (size, size, 3)
            assert (layout.width, layout.height) == (size, size)

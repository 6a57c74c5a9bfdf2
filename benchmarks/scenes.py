"""Procedural scenes a second, by scene type, in one process."""

from __future__ import annotations

import argparse
import time

import cv2

from rsgen.scenes import SCENE_STYLES, SCENE_TYPES, render_scene


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=256, help="side in pixels")
    parser.add_argument("--count", type=int, default=20, help="images a scene type")
    parser.add_argument("--style", choices=SCENE_STYLES, default=SCENE_STYLES[0])
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    render_scene(0, arguments.size)
    total = 0.0
    for scene in SCENE_TYPES:
        start = time.process_time()
        for seed in range(arguments.count):
            render_scene(seed, arguments.size, scene=scene, style=arguments.style)
        spent = time.process_time() - start
        total += spent
        print(f"{scene:20s} {arguments.count / spent:7.1f} images/s")
    images = arguments.count * len(SCENE_TYPES)
    print(f"{'all':20s} {images / total:7.1f} images/s on one core, {arguments.size} px")


if __name__ == "__main__":
    main()

"""Perceptual hashes and JPEG qualities against independent computations."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from scipy.fft import dctn

from rsgen.export.codec import STANDARD_LUMINANCE, encode_jpeg, jpeg_quality, survey
from rsgen.scorers.novelty import HASH_BITS, HASH_SIDE, SIGNATURE, HashNovelty, perceptual_hashes


def bits(words: np.ndarray) -> np.ndarray:
    raw = words.astype("<u8").view(np.uint8)
    return np.unpackbits(raw)[:HASH_BITS].astype(bool)


@pytest.mark.parametrize("seed", range(3))
def test_hash_is_the_signs_of_scipys_cosine_transform(seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (64, 64), dtype=np.uint8)
    low = dctn(image.astype(np.float64) - image.mean(), norm="ortho")[:HASH_SIDE, :HASH_SIDE]
    expected = low.ravel()[1:] > 0
    clear = np.abs(low.ravel()[1:]) > 1e-2  # float32 may turn a zero either way
    found = bits(perceptual_hashes(np.repeat(image[..., None], 3, axis=2))[0])
    assert (found == expected)[clear].all()


def test_a_single_frequency_sets_its_bit() -> None:
    y, x = (np.mgrid[0:64, 0:64] + 0.5) * np.pi / 64
    wave = 128 + 100 * np.cos(3 * y) * np.cos(5 * x)
    negative = 256 - wave
    place = 3 * HASH_SIDE + 5 - 1
    for image, expected in ((wave, True), (negative, False)):
        rgb = np.repeat(image.astype(np.uint8)[..., None], 3, axis=2)
        assert bits(perceptual_hashes(rgb)[0])[place] == expected


def test_distance_is_the_share_of_differing_bits() -> None:
    codes = np.zeros(2, dtype=SIGNATURE)
    codes["thumbnail"] = np.random.default_rng(0).integers(-60, 60, (32, 32))
    codes["hash"][1, :, 0] = 0b1011
    assert HashNovelty().distances(codes[:1], codes[1:])[0, 0] == pytest.approx(3 / HASH_BITS)


@pytest.mark.parametrize("quality", [10, 35, 50, 60, 75, 85, 92, 95, 99])
def test_jpeg_quality_is_found_again(quality: int) -> None:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=quality)
    assert jpeg_quality(Image.open(buffer).quantization[0]) == quality


def test_quality_50_is_the_standard_table() -> None:
    assert jpeg_quality(STANDARD_LUMINANCE) == 50


@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_tables_of_a_donor_are_written_again(tmp_path, subsampling: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "real.jpg", quality=71, subsampling=subsampling)
    codec = survey([tmp_path / "real.jpg"])[0]
    (tmp_path / "new.jpg").write_bytes(encode_jpeg(pixels[::-1], codec, {}))
    assert survey([tmp_path / "new.jpg"])[0] == codec
    assert (codec.quality, codec.subsampling) == (71, subsampling)

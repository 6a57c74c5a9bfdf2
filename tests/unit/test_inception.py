"""FID's Inception: the network against another program's, its file, and the names of figures."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from torch import Tensor

from cli.looking import doctor
from rsgen.errors import SetupError, UsageError
from rsgen.evaluation.features import public_features
from rsgen.evaluation.fidelity import _names
from rsgen.models.inception import Inception, resize_like_tf1
from rsgen.models.inception_conversion import convert_inception

# torch-fidelity 0.3.0's features 0, 500, 1000, 1500 and 2047 and their mean, for the weights and
# images below.
KNOWN = {
    (96, 128): ((11.02818, 0.95795, 2.34257, 5.08082, 17.22763), 13.07469),
    (299, 299): ((17.01543, 1.37567, 3.58266, 7.96526, 25.22607), 19.11852),
    (320, 400): ((13.66358, 1.18003, 2.99576, 5.75905, 20.64009), 15.81707),
}


def sizes() -> dict[str, torch.Size]:
    """Of the public file's tensors, the classifier included."""
    with torch.device("meta"):
        found = {name: value.shape for name, value in Inception().state_dict().items()}
    return {**found, "fc.weight": torch.Size((1008, 2048)), "fc.bias": torch.Size((1008,))}


def wave(shape: torch.Size, start: int) -> Tensor:
    """Numbers in [-1, 1] that no generator's version changes."""
    places = torch.arange(start, start + shape.numel(), dtype=torch.float64)
    return torch.sin(places**1.5 * 0.37).reshape(shape).float()


@cache
def weights() -> Mapping[str, Tensor]:
    state = {}
    for k, (name, size) in enumerate(sorted(sizes().items())):
        made = wave(size, k)
        if name.endswith("num_batches_tracked"):
            made = torch.tensor(0)
        elif name.startswith("fc."):
            made = torch.zeros(size)
        elif name.endswith(("running_var", "bn.weight")):
            made = 1 + 0.5 * made
        else:
            made = made * 2 / made[0].numel() ** 0.5 if made.ndim == 4 else 0.1 * made
        state[name] = made
    return state


def picture(height: int, width: int) -> np.ndarray:
    y, x = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    bands = ((x * 3 + y) % 256, (y * 5) % 256, (x * y) % 256)
    return np.stack(bands, axis=-1).astype(np.uint8)


@pytest.fixture(scope="module")
def public_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("inception") / "pt_inception.pth"
    torch.save(dict(weights()), file)
    return file


@pytest.fixture(scope="module")
def folder(public_file: Path) -> Path:
    return convert_inception(public_file, public_file.parent / "made").folder


@pytest.mark.parametrize("size", KNOWN, ids=lambda size: f"{size[0]}x{size[1]}")
def test_features_are_those_of_torch_fidelity(folder: Path, size: tuple[int, int]) -> None:
    """Catches torchvision's pooling, pixel-centre resizing, [0, 1] input, a lost tensor."""
    network = public_features(folder, "cpu")
    found = network.features(picture(*size)[None])[0]
    some, mean = KNOWN[size]
    assert found.shape == (2048,) and found.dtype == np.float32
    np.testing.assert_allclose(found[[0, 500, 1000, 1500, 2047]], some, rtol=2e-5)
    assert found.mean() == pytest.approx(mean, rel=2e-5)
    assert _names(network.name) == ("FID", "KID", "MMD-Inception")


@pytest.mark.parametrize("name", ["judge", "CLIP", "vision"])
def test_no_other_network_gives_the_famous_names(name: str) -> None:
    """Catches a distance of judge features that is published as FID."""
    assert not {"FID", "KID"} & set(_names(name))


def test_resizing_by_hand() -> None:
    """Catches align_corners and half-pixel centres: pixel i looks at i * old / new."""
    line = torch.tensor([0.0, 10.0, 40.0]).reshape(1, 1, 1, 3)
    wide = resize_like_tf1(line, (1, 6)).flatten().tolist()
    assert wide == [0, 5, 10, 25, 40, 40]
    assert resize_like_tf1(line.transpose(2, 3), (2, 1)).flatten().tolist() == [0, 25]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.pop("Mixed_7b.branch1x1.conv.weight"), "lacks Mixed_7b.branch1x1"),
        (lambda s: s.update({"fc.bias": torch.zeros(1000)}), "1000 classes"),
        (lambda s: s.update({"AuxLogits.fc.weight": torch.zeros(2)}), "AuxLogits.fc.weight"),
        (lambda s: s.update({"Mixed_5b.branch_pool.bn.bias": torch.zeros(3)}), "other sizes"),
    ],
    ids=["missing", "imagenet", "auxiliary", "sizes"],
)
def test_other_weights_are_refused(tmp_path: Path, change: object, said: str) -> None:
    """Catches ImageNet's Inception v3, whose distances are not FID, taken without a word."""
    # one stored number a tensor: only names and sizes matter here
    state = {name: torch.zeros(()).expand(size) for name, size in sizes().items()}
    change(state)  # type: ignore[operator]
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(SetupError, match=said):
        convert_inception(tmp_path / "other.pth", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_file_without_counters_is_whole(tmp_path: Path, folder: Path) -> None:
    """Older files of the same weights lack num_batches_tracked, which eval mode never reads."""
    state = {k: v for k, v in weights().items() if not k.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "older.pth")
    made = convert_inception(tmp_path / "older.pth", tmp_path / "out")
    image = picture(64, 64)[None]
    old, new = (public_features(place, "cpu").features(image) for place in (made.folder, folder))
    np.testing.assert_array_equal(old, new)


def test_through_the_command_line(
    public_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches an option that is read and goes nowhere."""
    with pytest.raises(typer.Exit) as ended:
        doctor(convert_inception=public_file, out=tmp_path / "inception")
    assert ended.value.exit_code == 0
    assert f"--features {tmp_path / 'inception'}" in capsys.readouterr().out
    with pytest.raises(UsageError, match="exists already"):
        convert_inception(public_file, tmp_path / "inception")
    with pytest.raises(UsageError, match="no such file"):
        convert_inception(tmp_path / "nothing.pth", tmp_path / "b")


def test_a_damaged_folder_says_how_to_make_it_again(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(SetupError) as raised:
        public_features(tmp_path, "cpu")
    assert "--convert-inception" in str(raised.value.hint)

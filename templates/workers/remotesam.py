# Masks by RemoteSAM for: rsgen extract-masks --backend worker --command '...' (see below)
# ruff: noqa: BLE001, T201 - a program; it runs in RemoteSAM's environment, Python 3.8 and up
"""RemoteSAM as a worker of rsgen, in an environment of its own.

    rsgen templates workers/remotesam.py > remotesam.py
    rsgen extract-masks DATASET --out masks --backend worker --command \\
      'ENVIRONMENT/bin/python remotesam.py --repo RemoteSAM --checkpoint RemoteSAMv1.pth'

Needs a copy of RemoteSAM's repository, its checkpoint and what it imports (torch, numpy,
Pillow are used here too). Neither comes with rsgen, and the repository names no licence: ask
its authors before you give masks away. The checkpoint is a pickle: load only one you trust.

It reads one JSON question a line and writes one JSON answer a line; all other output, the
network's too, goes to stderr. The network sees 896 x 896 pixels whatever the image's shape,
so it is shown square windows around the labels, with surround, in which objects are large.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import math
import os
import re
import sys
import traceback
from pathlib import Path

INPUT = 896  # side of the network's input
SURROUND = 0.5  # kept around a label, in its longest side; rsgen looks there for leakage
PADDING = (124, 116, 104)  # ImageNet's mean colour: nothing, to the network


def arguments():
    parser = argparse.ArgumentParser(description="RemoteSAM as a worker of rsgen")
    parser.add_argument("--repo", required=True, help="folder of RemoteSAM's repository")
    parser.add_argument("--checkpoint", required=True, help="RemoteSAMv1.pth")
    parser.add_argument("--device", default=None, help="cpu, cuda, cuda:1 (default: what is there)")
    parser.add_argument(
        "--object-px", type=int, default=128, help="long side of an object, as seen"
    )
    parser.add_argument("--max-zoom", type=float, default=4.0, help="most input pixels a pixel")
    parser.add_argument(
        "--prompt", action="append", default=[], metavar="CLASS=WORDS",
        help="how to say a class: small-vehicle=car (default: its name, hyphens as spaces)",
    )  # fmt: skip
    return parser.parse_args()


def stop(text):
    """A start that cannot go on: rsgen shows the last lines of stderr."""
    print(text, file=sys.stderr)
    sys.exit(1)


# ---------------------------------------------------------------- the network


def find_module(repo):
    """Dotted name of the module in the repository that defines init_demo_model."""
    for path in sorted(repo.rglob("*.py")):
        text = path.read_text(encoding="utf-8", errors="replace")
        if re.search(r"^def init_demo_model\b", text, re.MULTILINE):
            return ".".join(path.relative_to(repo).with_suffix("").parts)
    return stop(f"--repo {repo}: no file in it defines init_demo_model; is it RemoteSAM's?")


def filled(function, values):
    """Arguments for a function by the words in its parameters' names; others keep defaults."""
    chosen = {}
    for name, parameter in inspect.signature(function).parameters.items():
        words = [word for word in values if word in name.lower()]
        if words:
            chosen[name] = values[words[0]]
        elif parameter.default is parameter.empty and parameter.kind in (
            parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY,
        ):  # fmt: skip
            stop(f"{function.__name__} wants {name!r}, which this script does not know")
    return chosen


def load_weights(path):
    """The checkpoint's tensors by name. It holds an argparse.Namespace beside them."""
    import torch

    known = inspect.signature(torch.load).parameters
    more = {"weights_only": False} if "weights_only" in known else {}
    try:
        saved = torch.load(path, map_location="cpu", **more)
    except Exception as error:
        stop(f"--checkpoint {path} cannot be read: {error}")
    if not isinstance(saved, dict) or not isinstance(saved.get("model"), dict):
        stop(f"--checkpoint {path} has no weights under 'model': not a RemoteSAM checkpoint")
    return saved["model"]


def check_weights(model, saved, path):
    """Refuse a network that is not wholly the checkpoint's: it is loaded with strict=False."""
    import torch

    model = getattr(model, "module", model)
    wanted = dict(model.named_parameters())
    known = set(model.state_dict())
    missing = sorted(set(wanted) - set(saved))
    unknown = sorted(k for k in set(saved) - known if not k.endswith("position_ids"))
    if missing or unknown:
        stop(
            f"--checkpoint {path} does not fit the network: {len(missing)} of its {len(wanted)} "
            f"parameters are missing ({', '.join(missing[:3]) or 'none'}), {len(unknown)} are "
            f"unknown ({', '.join(unknown[:3]) or 'none'}); is it RemoteSAMv1.pth, no backbone?"
        )
    for name, parameter in wanted.items():
        value = saved[name]
        mine = parameter.detach().cpu()
        if value.shape != mine.shape or not torch.equal(value.to(mine.dtype), mine):
            stop(f"--checkpoint {path}: the network did not take {name} from it")


def load_network(repo, module_name, checkpoint, device):
    """The object with `semantic_seg`, ready to look."""
    saved = load_weights(checkpoint)
    sys.path.insert(0, str(repo))
    os.chdir(repo)  # it may read files by paths from its root
    # Its parser reads the arguments of whatever program it runs in.
    sys.argv = [str(repo / "worker.py")]
    try:
        module = importlib.import_module(module_name)
        build = module.init_demo_model
        named = dict.fromkeys(("checkpoint", "ckpt", "weight", "path"), str(checkpoint))
        model = build(**filled(build, {"device": device, **named}))
    except SystemExit:
        return stop("RemoteSAM's own argument parser ended the program; see the lines above")
    check_weights(model, saved, checkpoint)
    del saved
    if hasattr(model, "eval"):
        model.eval()
    wrappers = [
        kind for _, kind in inspect.getmembers(module, inspect.isclass)
        if hasattr(kind, "semantic_seg") and hasattr(kind, "referring_seg")
    ]  # fmt: skip
    if not wrappers:
        return stop(f"{module_name} has no class with semantic_seg")
    # EPOC is a second network, for splitting masks; here the labels' boxes do that.
    return wrappers[0](**filled(wrappers[0], {"model": model, "device": device, "epoc": False}))


def probability(network, pixels, words):
    """float [H, W]: how sure the network is of a class at each pixel."""
    import numpy as np
    import torch

    quiet = getattr(torch, "inference_mode", torch.no_grad)
    with quiet():
        answer = network.semantic_seg(image=pixels, classnames=[words], return_prob=True)
    maps = [np.asarray(m).squeeze() for m in _arrays(answer)]
    maps = [m for m in maps if m.shape == pixels.shape[:2] and np.isfinite(m).all()]
    maps = [m for m in maps if m.min() >= 0 and m.max() <= 1]
    if not maps:
        height, width = pixels.shape[:2]
        raise ValueError(f"semantic_seg gave no map of {width} x {height} from 0 to 1")
    # With the probability may come the mask: whole numbers, or zeros and ones alone.
    best = max(maps, key=lambda m: (m.dtype.kind == "f", len(np.unique(m))))
    return np.asarray(best, dtype=np.float64)


def _arrays(answer):
    if isinstance(answer, dict):
        answer = list(answer.values())
    if isinstance(answer, (list, tuple)):
        return [array for part in answer for array in _arrays(part)]
    if hasattr(answer, "detach"):
        answer = answer.detach().cpu().numpy()
    return [answer] if hasattr(answer, "shape") else []


# ---------------------------------------------------------------- windows


def windows(boxes, width, height, object_px, max_zoom):
    """[(x0, y0, side, numbers)]: square windows in which each box is seen once, and large.

    The longest side of the smallest box of a window spans `object_px` of the network's input,
    if that enlarges no more than `max_zoom`. Where the image is smaller the window reaches
    over it, to the right and below.
    """
    sides = [max(x1 - x0, y1 - y0) for x0, y0, x1, y1 in boxes]
    left = sorted(range(len(boxes)), key=lambda k: (sides[k], k))
    most = max(width, height)
    found = []
    while left:
        x0, y0, x1, y1 = boxes[left[0]]
        longest = max(sides[left[0]], 1.0)
        least = longest * (1 + 2 * SURROUND)
        side = max(INPUT * longest / object_px, INPUT / max_zoom, least)
        side = int(min(math.ceil(side), most))
        corner = [
            int(min(max(round((low + high - side) / 2), 0), max(length - side, 0)))
            for low, high, length in ((x0, x1, width), (y0, y1, height))
        ]
        inside = [k for k in left if _holds(corner, side, boxes[k], (width, height))]
        inside = sorted(set(inside) | {left[0]})
        found.append((corner[0], corner[1], side, inside))
        left = [k for k in left if k not in inside]
    return found


def surround(box, width, height):
    """Whole pixels (x0, y0, x1, y1) of a box and its surround, in the image."""
    x0, y0, x1, y1 = box
    more = SURROUND * max(x1 - x0, y1 - y0)
    return (
        max(0, math.floor(x0 - more)), max(0, math.floor(y0 - more)),
        min(width, math.ceil(x1 + more)), min(height, math.ceil(y1 + more)),
    )  # fmt: skip


def _holds(corner, side, box, image):
    x0, y0, x1, y1 = surround(box, *image)
    across = corner[0] <= x0 and x1 <= corner[0] + side
    return across and corner[1] <= y0 and y1 <= corner[1] + side


def cut(pixels, x0, y0, side):
    """uint8 [side, side, 3], and how much of it is the image: (height, width)."""
    import numpy as np

    part = pixels[y0 : y0 + side, x0 : x0 + side]
    canvas = np.empty((side, side, 3), dtype=np.uint8)
    canvas[:] = PADDING
    canvas[: part.shape[0], : part.shape[1]] = part
    return canvas, part.shape[:2]


def runs_of(hard):
    """COCO's run-length code of bool [H, W], not compressed."""
    import numpy as np

    flat = np.concatenate([[0], hard.T.ravel().astype(np.int8), [0]])
    edges = np.flatnonzero(np.diff(flat))
    runs = np.diff(np.concatenate([[0], edges, [hard.size]]))
    return {"size": [int(hard.shape[0]), int(hard.shape[1])], "counts": [int(r) for r in runs]}


# ---------------------------------------------------------------- questions


def look(network, question, options, prompts):
    """One mask a window and class: all of the class around the labels that are seen there."""
    import numpy as np
    from PIL import Image

    with Image.open(question["image"]) as image:
        pixels = np.asarray(image.convert("RGB"))
    height, width = pixels.shape[:2]
    objects = question["objects"]
    boxes = [_clipped(o["box"], width, height) for o in objects]
    masks = []
    for x0, y0, side, members in windows(boxes, width, height, options.object_px, options.max_zoom):
        view, (rows, columns) = cut(pixels, x0, y0, side)
        for label in sorted({objects[k]["label"] for k in members}):
            words = prompts.get(label) or re.sub(r"[-_]+", " ", label)
            sure = probability(network, view, words)[:rows, :columns]
            near = np.zeros((height, width), dtype=bool)
            for k in members:
                if objects[k]["label"] == label:
                    left, top, right, bottom = surround(boxes[k], width, height)
                    near[top:bottom, left:right] = True
            hard = np.zeros((height, width), dtype=bool)
            hard[y0 : y0 + rows, x0 : x0 + columns] = sure >= 0.5
            hard &= near
            if hard.any():
                score = float(sure[hard[y0 : y0 + rows, x0 : x0 + columns]].mean())
                masks.append({"label": label, "score": score, "rle": runs_of(hard)})
    return {"masks": masks}


def _clipped(box, width, height):
    x0, y0, x1, y1 = box
    return min(max(x0, 0), width), min(max(y0, 0), height), min(x1, width), min(y1, height)


def main():
    options = arguments()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever is printed from here on is a remark
    sys.stdout = sys.stderr
    prompts = {}
    for pair in options.prompt:
        label, equals, words = pair.partition("=")
        if not equals or not label or not words:
            stop(f"--prompt {pair!r}: write CLASS=WORDS")
        prompts[label] = words
    repo, checkpoint = Path(options.repo).resolve(), Path(options.checkpoint).resolve()
    if not repo.is_dir():
        stop(f"--repo {repo}: no such folder")
    if not checkpoint.is_file():
        stop(f"--checkpoint {checkpoint}: no such file")
    module_name = find_module(repo)
    # Its own torch.load knows no weights_only, and torch 2.6 refuses the Namespace without.
    os.environ.setdefault("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    import torch

    device = options.device or ("cuda:0" if torch.cuda.is_available() else "cpu")
    network = load_network(repo, module_name, checkpoint, device)
    for line in sys.stdin:
        try:
            answer = look(network, json.loads(line), options, prompts)
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()

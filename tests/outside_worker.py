# ruff: noqa: T201 - it talks on stdout
"""A detector in a process of its own, as a user would write it, with its possible sicknesses.

`outside_worker.py MODE [FILE]`. It finds the bright pixels of each channel: red is the first
class, green the second, blue the third.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path


def look(question):
    from PIL import Image

    pixels = Image.open(question["image"]).convert("RGB")
    found = []
    for channel, label in zip(pixels.split(), question["classes"], strict=False):
        box = channel.point(lambda value: 255 * (value > 200)).getbbox()
        if box is not None:
            found.append({"label": label, "score": 0.9, "box": list(box)})
    return {"detections": found}


def main():
    mode, file = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else ""
    print("weights loaded", file=sys.stderr)
    if mode == "stubborn":  # deaf to the end of its input, with a child of its own
        child = subprocess.Popen(["sleep", "300"])
        Path(file).write_text(f"{os.getpid()} {child.pid}")
    for number, line in enumerate(sys.stdin):
        question = json.loads(line)
        if mode == "dies-once" and not Path(file).exists():
            Path(file).touch()
            os._exit(3)
        if mode == "dies":
            print("no memory left", file=sys.stderr)
            os._exit(3)
        if mode == "slow":
            time.sleep(60)
        if mode == "chatty":
            print("looking at", question["image"])
        if mode == "says":
            print(file)
            continue
        answer = json.dumps(look(question))
        print(f"{answer}\n{answer}" if mode == "twice" else answer)
        if mode == "leaves" and number == 0:
            sys.exit(0)
    if mode == "stubborn":
        time.sleep(300)


main()

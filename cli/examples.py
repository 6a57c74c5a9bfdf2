"""The example lines at the end of each command's help."""

from __future__ import annotations

__all__ = ["EXAMPLES"]

EXAMPLES: dict[str, tuple[str, ...]] = {
    "scenes": ("scenes --count 200 --size 256 --out scenes",),
    "extract-masks": (
        "extract-masks DATASET --out masks",
        "extract-masks DATASET --class-map airplane=plane --gsd 0.5 --out masks",
        "extract-masks DATASET --backend sam --model hub:facebook/sam-vit-base --out masks",
        "extract-masks DATASET --backend text-prompted --model hub:CIDAS/clipseg-rd64-refined "
        "--out masks",
        "extract-masks DATASET -s extract_masks.captions=CLIP --out masks   (phrases for prompts)",
        "extract-masks DATASET --backend worker --command 'python worker.py' --out masks",
        "extract-masks --images pictures labels.json --format coco --out masks",
        "export masks --format labelme --out fix          (then: labelme fix/dataset/labelme)",
        "extract-masks masks --corrections fix/dataset/labelme --out masks-2",
    ),
    "build-mask-pool": (
        "build-mask-pool masks --out pool",
        "build-mask-pool masks-2023 masks-2024 --out pool",
    ),
    "train": (
        "train masks --out model                          (the embedded demonstration model)",
        "train masks --base hub:ORG/NAME --out model      (a Stable Diffusion 1.5 folder or hub)",
        "train masks --steps 2000 --max-time 4h --out model",
    ),
    "train-judge": (
        "train-judge masks --out judges",
        "train-judge masks --steps 2000 --judges evaluation --out judges",
    ),
    "rl-tune": (
        "rl-tune model --pool pool --judge judges --out tuned",
        "rl-tune model --layouts other-labels --class-map airplane=plane --judge judges "
        "--out tuned",
        "rl-tune model --pool pool --real masks --judge judges --algorithm ppo --out tuned",
        "rl-tune model --pool pool --real masks --judge judges --reward detector "
        "--reward distribution:0.5 --out tuned",
        "rl-tune model --pool pool -s 'rl_tune.rewards=[{reward: detector, options: "
        "{detectors: [hub:ORG/NAME]}}]' --out tuned",
        "rl-tune model --layouts masks --real masks --judge judges -c of-diff-ddpo --out tuned",
        "rl-tune model --pool pool --judge judges --dry-run --out tuned   (what it will cost)",
    ),
    "generate": (
        "generate model --pool pool --count 500 --out images",
        "generate model --layouts masks --per-layout 2 --out images",
        "generate model --pool pool --count 500 --workers 4 --out images",
        "generate model --pool pool --count 500 --out images --series weekly",
        "generate hub:ORG/NAME/controlnet --base hub:ORG/NAME --layouts masks "
        "-s generate.condition=index -s generate.classes=earthsynth-67 --out images",
    ),
    "filter": (
        "filter images --real masks --out kept",
        "filter images --real masks --judge judges --out kept",
        "filter images --real masks --fail-under 0.6 --out kept",
        "filter images --real masks --judge judges --draw-audit 200 --out kept",
        "filter kept --rescore none --real masks --judge judges --audit kept/audit.csv "
        "--min-label-precision 0.95 --out sure",
    ),
    "export": (
        "export kept --format coco,dota,yolo-obb --out set",
        "export kept --with-real masks --ratio 1:1 --image-format match-real --out set",
    ),
    "evaluate": (
        "evaluate kept --real masks --judge judges --out report",
        "evaluate kept --real masks --judge judges --metrics layout,downstream --out report",
        "evaluate new --real masks --judge judges --against report --out report-new",
    ),
    "run": (
        "run quickstart --work quickstart-run",
        "run factory.yaml --work work --from filter",
        "run factory.yaml --work work --series nightly   (new images each time)",
        "templates jobs/nightly.sh > nightly.sh          (for cron; `templates`: Slurm, DVC)",
    ),
}

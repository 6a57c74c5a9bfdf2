"""Label formats, read and write side by side: COCO, DOTA, YOLO, JSON lines."""

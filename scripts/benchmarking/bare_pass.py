"""The limit of anything frozen: one forward pass over preloaded tensors, nothing else."""

from __future__ import annotations

import json
import time

import timm
import torch
from images import IMAGE_SIZE, Images, arguments

given = arguments()
images = torch.randn(len(Images.read(given["table"]).labels), 3, IMAGE_SIZE, IMAGE_SIZE)
model = timm.create_model(given["architecture"], num_classes=0).eval()
if "vit" not in given["architecture"]:
    model, images = (x.to(memory_format=torch.channels_last) for x in (model, images))
precision = torch.autocast("cpu", torch.bfloat16, enabled=given["precision"] == "bf16")
with torch.inference_mode(), precision:
    model(images[:32])
    begin, busy = time.perf_counter(), time.process_time()
    for batch in images.split(32):
        model(batch)
    seconds, busy = time.perf_counter() - begin, time.process_time() - busy
    image_size = torch.randn(1024, 1024)
    (image_size @ image_size).sum()
    begin = time.perf_counter()
    for _ in range(5):
        image_size @ image_size
    rate = 5 * 2 * 1024**3 / (time.perf_counter() - begin)
print(json.dumps({"pass": seconds, "pass_processor": busy, "flops": rate}))

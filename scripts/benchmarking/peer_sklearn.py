"""A strong peer: embed every image once, then a logistic regression per fold."""

from __future__ import annotations

import json
import time

START = time.perf_counter()

import numpy as np  # noqa: E402
import timm  # noqa: E402
import torch  # noqa: E402
from images import Images, arguments  # noqa: E402
from sklearn.linear_model import LogisticRegression  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402

given = arguments()
images = Images.read(given["table"])
model = timm.create_model(given["architecture"], num_classes=0).eval()
ready = time.perf_counter() - START
features = []
precision = torch.autocast("cpu", torch.bfloat16, enabled=given["precision"] == "bf16")
begin = time.perf_counter()
with torch.inference_mode(), precision:
    for start in range(0, len(images.labels), 32):
        rows = range(start, min(start + 32, len(images.labels)))
        images = torch.from_numpy(np.stack([images.image(row) for row in rows]))
        features.append(model(images).float().numpy())
x = np.concatenate(features)
embedding = time.perf_counter() - begin
for train, _, test in images.folds(given["folds"]):
    regression = LogisticRegression(C=0.01, class_weight="balanced", max_iter=2000)
    made = make_pipeline(StandardScaler(), regression).fit(x[train], images.labels[train])
    made.predict_proba(x[test])
print(json.dumps({"start": ready, "embedding": embedding}))

"""Augmentation of radiographs: what another image of the same patient could have looked like."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Augmentation:
    """Small changes of position, exposure and sharpness.

    Images are never turned upside down, and not mirrored unless asked, since the heart has a side.

    Attributes
    ----------
    level
        ``none``; ``light``: rotation up to 5 degrees, shift up to 3 %, scale within 5 %, exposure
        within 10 %; ``strong``: twice to three times as much, with noise and blur.
    horizontal_flip
        Mirror half of the images.
    """

    level: Literal["none", "light", "strong"] = "light"
    horizontal_flip: bool = False
    _local: threading.local = field(default_factory=threading.local, repr=False, compare=False)

    @property
    def active(self) -> bool:
        """Whether anything is changed at all."""
        return self.level != "none" or self.horizontal_flip

    def __call__(self, image: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
        """Return a changed copy of a uint8 image ``(height, width, channels)``.

        Depends on the image and the seed alone, in whatever thread.
        """
        if not self.active:
            return image
        # A pipeline carries the state of its random numbers, so each thread has its own.
        if not hasattr(self._local, "pipeline"):
            self._local.pipeline = self._pipeline()
        pipeline = self._local.pipeline
        pipeline.set_random_seed(seed)
        changed: NDArray[np.uint8] = pipeline(image=image)["image"]
        return changed.reshape(image.shape)

    def _pipeline(self) -> Any:
        # Otherwise the import asks the network for a newer version.
        os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
        import albumentations as A  # noqa: N812  (the library's own convention)
        import cv2

        # Its own threads are of no use on one image, and take turns with those of the model.
        cv2.setNumThreads(0)

        steps: list[Any] = [A.HorizontalFlip(p=0.5)] if self.horizontal_flip else []
        if self.level == "light":
            steps += [
                A.Affine(
                    rotate=(-5, 5),
                    translate_percent=(-0.03, 0.03),
                    scale=(0.95, 1.05),
                    p=0.8,
                ),
                A.RandomBrightnessContrast(0.1, 0.1, p=0.5),
                A.RandomGamma((90, 110), p=0.3),
            ]
        elif self.level == "strong":
            steps += [
                A.Affine(
                    rotate=(-12, 12),
                    translate_percent=(-0.07, 0.07),
                    scale=(0.85, 1.15),
                    p=0.9,
                ),
                A.RandomBrightnessContrast(0.25, 0.25, p=0.7),
                A.RandomGamma((75, 130), p=0.5),
                A.GaussNoise(std_range=(0.01, 0.04), p=0.3),
                A.GaussianBlur(blur_limit=(3, 5), p=0.2),
            ]
        return A.Compose(steps)

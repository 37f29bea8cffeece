"""Where the pictures of a batch are put by the decoding threads: as crops, or as what a crop on the device needs of them."""

from __future__ import annotations

from typing import Protocol

import torch

from biomedray.model.preprocess import Crop, Pixels, Region, crop_box, cut, squared
from biomedray.model.resample import Canvases, pack
from biomedray.train.order import generator

Pictures = torch.Tensor | Canvases
"""[n, S, S, 3] uint8, or what becomes that on the device."""


class Tray(Protocol):
    """A place for each picture of a batch; threads may put several at once."""

    def put(self, number: int, image: Pixels, key: tuple[int, ...]) -> None:
        """The picture [H, W, 3], whose crop the key alone decides."""
        ...

    def pictures(self) -> Pictures:
        """All of them, once all are there."""
        ...


class Crops:
    """Pictures are cropped as they come."""

    def __init__(self, count: int, crop: Crop, pin: bool) -> None:
        self._crop = crop
        self._batch = torch.empty((count, crop.size, crop.size, 3), dtype=torch.uint8, pin_memory=pin)
        self._places = self._batch.numpy()

    def put(self, number: int, image: Pixels, key: tuple[int, ...]) -> None:
        """Crop it into its place."""
        self._places[number] = squared(_region(image, self._crop, key), self._crop.size)

    def pictures(self) -> torch.Tensor:
        """[n, S, S, 3] uint8."""
        return self._batch


class Regions:
    """The parts that the crops reach are kept, and laid behind each other when all are there."""

    def __init__(self, count: int, crop: Crop, pin: bool) -> None:
        self._crop, self._pin = crop, pin
        self._held: list[Region | None] = [None] * count

    def put(self, number: int, image: Pixels, key: tuple[int, ...]) -> None:
        """Cut out what its crop reaches."""
        self._held[number] = _region(image, self._crop, key)

    def pictures(self) -> Canvases:
        """All regions, in page-locked memory if asked."""
        return pack([region for region in self._held if region is not None], self._crop.size, self._pin)


def _region(image: Pixels, crop: Crop, key: tuple[int, ...]) -> Region:
    return cut(image, crop_box(image.shape[1], image.shape[0], crop, generator(*key)), crop.size)

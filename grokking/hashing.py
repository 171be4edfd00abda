"""Random numbers that are a hash of where they are used: a run's noise depends neither on its cohort nor on the device."""

import math

import torch
from torch import Tensor


def mix(x: Tensor) -> Tensor:
    """A 32-bit integer hash (int64 in, values in 0 … 2³² - 1 out), after C. Wellons' `lowbias32`."""
    mask = 0xFFFFFFFF
    x = x & mask
    x = (x ^ (x >> 16)) * 0x7FEB352D & mask
    x = (x ^ (x >> 15)) * 0x846CA68B & mask
    return x ^ (x >> 16)


def normal(key: Tensor, like: Tensor) -> Tensor:
    """Numbers of mean 0 and variance 1, nearly normal, in the shape of `like`, from a key [].

    The sum of twelve uniform ones (Irwin–Hall; kurtosis 2.9 in place of 3, none beyond ±6): integers, so that no bit
    depends on how a logarithm is computed in which place of a vector.
    """
    element = mix(key) + 6 * torch.arange(math.prod(like.shape), device=like.device).view(like.shape)
    words = torch.stack([mix(element + draw) for draw in range(6)])
    total = ((words & 0xFFFF) + (words >> 16)).sum(0)
    return ((total - 6 * 0xFFFF) / 0x10000).to(like.dtype)

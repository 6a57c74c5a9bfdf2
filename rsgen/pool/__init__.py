"""Mask pools: canonical instance shapes to place in new layouts."""

from rsgen.pool.build import build_mask_pool
from rsgen.pool.canonical import Canonical, canonical_pose
from rsgen.pool.table import MaskPool, PoolMask

__all__ = ["Canonical", "MaskPool", "PoolMask", "build_mask_pool", "canonical_pose"]

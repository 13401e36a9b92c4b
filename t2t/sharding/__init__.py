"""Device meshes, device platforms, and the rules that map logical array axes to mesh axes."""

from t2t.sharding.hosts import Share, share_of_rows
from t2t.sharding.mesh import AXES, MeshConfig
from t2t.sharding.platforms import assume_platform, interpreted, platform
from t2t.sharding.rules import (
    DEFAULT_RULES,
    Rules,
    activate,
    active_mesh,
    axis_size,
    constrain,
    divided_rows,
    on_own_experts,
    on_own_rows,
    per_device,
)

__all__ = [
    "AXES",
    "DEFAULT_RULES",
    "MeshConfig",
    "Rules",
    "Share",
    "activate",
    "active_mesh",
    "assume_platform",
    "axis_size",
    "constrain",
    "divided_rows",
    "interpreted",
    "on_own_experts",
    "on_own_rows",
    "per_device",
    "platform",
    "share_of_rows",
]

"""Meshes, and the table that says which logical axis of an array lies along which axis of the mesh."""

from t2t.sharding.mesh import MeshConfig
from t2t.sharding.rules import DEFAULT_RULES, Rules, activate, constrain

__all__ = ["DEFAULT_RULES", "MeshConfig", "Rules", "activate", "constrain"]

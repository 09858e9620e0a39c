"""Decoders, encoders, reward heads, caches, and weights in and out. Flax NNX is used nowhere else."""

from flax import nnx

# Modules are trees of parameters, never graphs with shared references (flax FLIP 5310).
nnx.set_graph_mode(False)

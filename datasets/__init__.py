"""From gridded files to tensors and back: names, units, masks and statistics, no physics.

store       files -> lazy xarray fields           axes, units, attributes   what files leave unsaid
layout      xarray fields <-> (T, C, Y, X)        normaliser   physical <-> normalised
prepare     one pass into a memory-mapped array   statistics   what that pass measures
loader      batches in an order that can resume   module       all of it for Lightning

Nothing is imported here, so that each part costs only what it needs.
"""

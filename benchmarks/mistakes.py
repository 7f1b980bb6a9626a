"""Mistakes that people make with fields, as functions of a Dataset: for showing that a residual notices them."""

from collections.abc import Callable

import torch
import xarray as xr

Change = Callable[[xr.Dataset], xr.Dataset]


def changed(name: str, function: Callable[[xr.DataArray], xr.DataArray]) -> Change:
    """`function` of one variable, which keeps its attributes."""
    return lambda ds: ds.assign({name: function(ds[name]).assign_attrs(ds[name].attrs)})


def negated(name: str) -> Change:
    return changed(name, lambda a: -a)


def times(name: str, factor: float) -> Change:
    return changed(name, lambda a: a * factor)


def exchanged(a: str, b: str) -> Change:
    return lambda ds: ds.assign({a: ds[b].assign_attrs(ds[a].attrs), b: ds[a].assign_attrs(ds[b].attrs)})


def upside_down(dim: str) -> Change:
    """The values in reverse order under the same coordinate."""
    return lambda ds: ds.isel({dim: slice(None, None, -1)}).assign_coords({dim: ds[dim]})


def rounded(dtype: torch.dtype) -> Change:
    """All fields as that type holds them."""

    def change(ds: xr.Dataset) -> xr.Dataset:
        return ds.map(lambda a: a.copy(data=torch.tensor(a.values).to(dtype).double().numpy()), keep_attrs=True)

    return change


ROUNDED = {"inputs in float16": rounded(torch.float16), "inputs in bfloat16": rounded(torch.bfloat16)}

"""One side of a Fréchet distance: a mean, a covariance, and the factor that is worth keeping between comparisons."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch

from fastfid.linalg.factors import Factor, factor, factor_of_rows
from fastfid.moments import Moments
from fastfid.runtime.arithmetic import ordinary
from fastfid.runtime.checks import a_device, whole_number
from fastfid.runtime.device import float64_device
from fastfid.runtime.matrices import covariance, mean_vector


class FrechetReference:
    """A Gaussian, checked and factorised once, to be compared with many others.

    The factor F of Σ = F Fᵀ is made at the first distance that needs it and kept: [d, rank] in float64, beside the
    covariance [d, d] (or the samples [n, d] where n ≤ d).

    Args:
        mu: mean [d], NumPy or torch, any real dtype.
        sigma: covariance [d, d], symmetric positive semi-definite to rounding.
        device: where the d×d work is done; None means where sigma lies. A device without float64 (MPS) is replaced by
            the CPU, and the notes say so.
        names: what the two are called in messages.

    Attributes:
        mean: float64 [d].
        rank: numerical rank of the covariance; for samples n − 1.
        notes: what had to be done to the input.

    Raises:
        ValueError: NaN or infinity, shapes that don't fit, an asymmetric covariance. An indefinite one raises
            NotPSDError at the first distance.
    """

    def __init__(
        self,
        mu: Any,
        sigma: Any,
        *,
        device: torch.device | str | None = None,
        names: tuple[str, str] = ("mu", "sigma"),
    ) -> None:
        given = covariance(sigma, names[1])
        wanted = _device_of(sigma) if device is None else a_device("device", device)
        where = float64_device(wanted)
        self.name = names[1]
        self.matrix: torch.Tensor | None = given.matrix.to(where)
        self.rows: torch.Tensor | None = None
        self.divisor = 1.0
        self.from_samples = False
        self.mean = mean_vector(mu, names[0], given.matrix.shape[0]).to(where)
        self._notes = [given.note] if given.note else []
        if where != wanted:
            self._notes.append(f"{wanted.type} has no float64: the d×d work was done on the CPU")

    @classmethod
    def from_moments(
        cls,
        moments: Moments,
        *,
        ddof: int = 1,
        device: torch.device | str | None = None,
        keep_rows: bool = True,
        mean_dtype: str = "float64",
        name: str = "moments",
    ) -> FrechetReference:
        """From Moments; their samples, while they are known, are used in place of the covariance.

        Args:
            ddof: the covariance is scatter / (n − ddof).
            keep_rows: False forms the covariance even where the samples are known.
            mean_dtype: "float32" rounds the mean first.

        Raises:
            ValueError: n ≤ ddof, ddof below 0, or an unknown mean_dtype.
            TypeError: not Moments, or a ddof that is no whole number.
        """
        if not isinstance(moments, Moments):
            raise TypeError(f"{name}: {type(moments).__name__}; accepted: Moments")
        ddof = whole_number("ddof", ddof, least=0)
        if not isinstance(mean_dtype, str) or mean_dtype not in ("float32", "float64"):
            raise ValueError(f"mean_dtype: {mean_dtype!r}; accepted: 'float32', 'float64'")
        if moments.n is not None and moments.n <= ddof:
            raise ValueError(f"{name}: {moments.n} samples; a covariance with ddof = {ddof} needs at least {ddof + 1}")
        mean = moments.mean.to(getattr(torch, mean_dtype)).to(torch.float64)
        rows = moments.rows if keep_rows else None
        where = float64_device(mean.device if device is None else a_device("device", device))
        self = cls.__new__(cls)
        self.name, self._notes = name, []
        self.mean = mean.to(where)
        self.from_samples = moments.from_samples
        self.rows = None if rows is None else rows.to(where)
        self.divisor = 1.0 if rows is None or moments.n is None else float(moments.n - ddof)
        self.matrix = moments.cov(ddof).to(where) if rows is None else None
        return self

    @property
    def dim(self) -> int:
        """Number of features d."""
        return int(self.mean.shape[0])

    @property
    def columns(self) -> int:
        """The most columns a factor can have: d, or n − 1 for samples."""
        return self.dim if self.rows is None else max(int(self.rows.shape[0]) - 1, 0)

    @cached_property
    def factor(self) -> Factor:
        """F with Σ = F Fᵀ; NotPSDError where the covariance is indefinite."""
        with ordinary():
            if self.rows is not None:
                return factor_of_rows(self.rows, self.divisor)
            assert self.matrix is not None
            return factor(self.matrix, self.name)

    @cached_property
    def proven(self) -> Factor:
        """The factor with a measured distance from the covariance."""
        if self.rows is not None:
            return self.factor
        assert self.matrix is not None
        with ordinary():
            return factor(self.matrix, self.name, proven=True, plain=vars(self).get("factor"))

    def factor_for(self, proven: bool) -> Factor:
        """``proven`` where it is asked for or already there, else ``factor``."""
        return self.proven if proven or "proven" in vars(self) else self.factor

    @property
    def rank(self) -> int:
        """Numerical rank of the covariance; n − 1 for samples."""
        return self.factor.rank

    @property
    def notes(self) -> tuple[str, ...]:
        """What had to be done to the input, the factor's part once it exists."""
        made = vars(self).get("proven") or vars(self).get("factor")
        return (*self._notes, made.note) if made is not None and made.note else tuple(self._notes)

    def same_covariance(self, other: FrechetReference) -> bool:
        """Whether both covariances are equal bit by bit, so that their root is the matrix itself."""
        if self.matrix is not None and other.matrix is not None:
            return torch.equal(self.matrix, other.matrix)
        if self.rows is not None and other.rows is not None and self.divisor == other.divisor:
            return torch.equal(self.rows, other.rows)
        return False


def _device_of(value: Any) -> torch.device:
    return value.device if isinstance(value, torch.Tensor) else torch.device("cpu")

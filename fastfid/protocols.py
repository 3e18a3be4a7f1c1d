"""Every known protocol, as data.

A protocol is what stands between image files and a number: which files count, how they are decoded, cropped and
resized, how pixels are normalised, which network layer is read, how the moments are taken. Packages disagree in each of
these, by up to several FID in the resize alone, so a number without its protocol can't be compared.

One entry of the table is one package (and version, where the package changed); nothing else in fastfid knows their
names. To make your own: ``dataclasses.replace(fastfid.protocol("clean"), name="mine", …)``.
"""

from __future__ import annotations

import difflib
import hashlib
from dataclasses import asdict, dataclass, field, fields
from types import MappingProxyType
from typing import Any, Literal

from fastfid.sources import IMAGE_EXTENSIONS, Decode

Coordinates = Literal["half-pixel", "tf1-legacy", "align-corners", "nvidia-grid"]


@dataclass(frozen=True)
class Resize:
    """One resampling step; the fields are the arguments of ``fastfid.resize_normalize`` of the same names.

    Attributes:
        size: output (height, width) in pixels.
        filter: "nearest", "box", "bilinear", "hamming", "bicubic" or "lanczos3".
        antialias: widen the filter when shrinking.
        coordinates: where output pixel i lies in the source.
        precision: arithmetic of coordinates and weights: "single" where the package computes them in float32.
        a: the cubic's parameter (-0.5 is Keys' and Pillow's, -0.75 torch's non-antialiased); only bicubic reads it.
        clamp: (low, high) applied to the resampled values on the 0–255 scale, or None.
        quantize: round to uint8 between and after the passes, bit-exactly as Pillow does on 8-bit images.
    """

    size: tuple[int, int] = (299, 299)
    filter: str = "bilinear"
    antialias: bool = False
    coordinates: Coordinates = "half-pixel"
    precision: Literal["auto", "single", "double"] = "auto"
    a: float = -0.5
    clamp: tuple[float, float] | None = None
    quantize: bool = False

    def describe(self) -> str:
        """The step in a few words, for the table of protocols."""
        name = f"bicubic a={self.a:g}" if self.filter == "bicubic" else self.filter
        words = [f"{name} {self.size[0]}×{self.size[1]}", self.coordinates]
        words.append("antialias" if self.antialias else "no antialias")
        if self.clamp is not None:
            words.append(f"clamp {self.clamp[0]:g}–{self.clamp[1]:g}")
        words.append("uint8" if self.quantize else "float")
        return ", ".join(words)


@dataclass(frozen=True)
class Normalize:
    """The affine map x·scale + bias from the 0–255 scale to what the network reads, one number for all channels.

    Attributes:
        scale, bias: the map.
        formula: the same in words; two maps that differ in it alone are equal.
    """

    scale: float
    bias: float
    formula: str = field(compare=False)


@dataclass(frozen=True)
class Statistics:
    """How the moments of the features are taken.

    Attributes:
        mean_dtype: "float64", or "float32" where the package keeps the mean in single precision. fastfid accumulates in
            float64 and rounds the mean once; a package that adds in single precision differs from that by a few 1e-6
            of the mean at 50,000 samples (about 2e-7 of the FID).
        ddof: the covariance is scatter / (n − ddof).
        block: 0, or the batch size whose last, incomplete batch the package leaves out of the statistics.
    """

    mean_dtype: Literal["float64", "float32"] = "float64"
    ddof: int = 1
    block: int = 0


@dataclass(frozen=True)
class Protocol:
    """One named way from image files to a Fréchet distance.

    Attributes:
        name: what ``--protocol`` takes and results carry.
        package: the package and version whose numbers it reproduces.
        decode: which files count and how they become RGB uint8 pixels.
        crop: "none", or "center": the largest centred square, before any resampling.
        pre_resize: a first resampling to uint8 values before ``resize`` (T2I work: Lanczos to 256), or None.
        resize: the resampling to the network's input size.
        normalize: the affine map to the network's input range.
        tap: the layer of the network that is read.
        statistics: dtype of the mean, ddof, dropped remainder.
        root: how the package takes tr(Σ₁Σ₂)^½. fastfid's root is exact for every protocol; this says what it replaces.
        source: where these facts were read.
        deviations: where, in which files are read and what their pixels are, fastfid does not do as the package does.
        conventions: (metric, whose definition of it) where the package has one of its own.
    """

    name: str
    package: str
    resize: Resize
    normalize: Normalize
    decode: Decode = field(default_factory=Decode)
    crop: Literal["none", "center"] = "none"
    pre_resize: Resize | None = None
    tap: str = "2048"
    statistics: Statistics = field(default_factory=Statistics)
    root: str = "scipy.linalg.sqrtm(Σ₁Σ₂); eps=1e-6 on both diagonals where that is not finite"
    source: str = ""
    deviations: tuple[str, ...] = ()
    conventions: tuple[tuple[str, str], ...] = ()

    def fingerprint(self) -> str:
        """16 hex digits over everything that changes features; equal fingerprints mean comparable moments.

        Fields at their default are left out, so that a new field does not make old statistics files incomparable.
        """
        parts = (self.crop, self.pre_resize, self.resize, self.normalize, self.tap)
        text = ";".join(_distinctive(part) for part in parts)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a JSON report."""
        facts = asdict(self)
        facts["decode"]["extensions"] = sorted(self.decode.known())
        facts["fingerprint"] = self.fingerprint()
        return facts


def _distinctive(part: Resize | Normalize | str | None) -> str:
    """The type and the fields that are compared and differ from their default, in order."""
    if part is None or isinstance(part, str):
        return repr(part)
    compared = ((f, getattr(part, f.name)) for f in fields(part) if f.compare)
    given = ((f.name, value) for f, value in compared if value != f.default)
    return f"{type(part).__name__}({', '.join(f'{name}={value!r}' for name, value in given)})"


IDENTITY = Normalize(1.0, 0.0, "x")
_PLUS_MINUS_ONE = Normalize(2.0 / 255.0, -1.0, "2·(x/255) − 1")
_TF = Normalize(1.0 / 128.0, -1.0, "(x − 128)/128")

_HALF_PIXEL = Resize()
_TF1 = Resize(coordinates="tf1-legacy")
_NVIDIA = Resize(coordinates="nvidia-grid")

_FLAT = Decode(recursive=False)
_DEEP = Decode(recursive=True)
_GLOB = Decode(recursive=False, any_case=False)
_CLEAN_FILES = Decode(
    recursive=True,
    extensions=IMAGE_EXTENSIONS | {"JPEG", "JPG", "PNG"},
    npy_files=True,
    hidden=False,
    follow_links=True,
    any_case=False,
    open_archives=True,
)
_PILLOW = Decode(recursive=True, extensions=frozenset(), pillow=True)

_NO_FOLDERS = "reads no folders and no zips; fastfid's own rules"
_NO_ZIPS = "reads no zips; the rules of its folders"
_CLEAN_DEVIATIONS = (
    "a link to a folder above it is not followed again; glob repeats that folder some 40 times",
    "in zips, macOS forks (__MACOSX/) are left out and .npy members are read; it stops at either",
    ".npy files must be uint8 with 1, 3 or 4 channels; it takes any array",
)
_NVIDIA_DEVIATIONS = (
    "palettes are looked up, as its reader of PNG (pyspng) does; without that, and in other files (GIF, BMP, TIFF), it "
    "takes the palette's indices for grey levels",
    "what is neither 8-bit grey nor RGB is converted, and sizes may differ; it stops there",
    "macOS forks (__MACOSX/) in zips are left out; it stops at them",
)
_EIGVALS = "Σ √λ(Σ₁Σ₂) over complex eigenvalues, real part; no eps"
_NVIDIA_ROOT = "scipy.linalg.sqrtm(Σ₁Σ₂), real part; no eps"

_ENTRIES = (
    Protocol(
        name="pytorch-fid",
        package="pytorch-fid 0.3.0",
        decode=_GLOB,
        deviations=(_NO_ZIPS,),
        resize=_HALF_PIXEL,
        normalize=_PLUS_MINUS_ONE,
        source="https://github.com/mseitzer/pytorch-fid (src/pytorch_fid/fid_score.py, inception.py)",
    ),
    Protocol(
        name="clean",
        package="clean-fid 0.1.35, mode='clean'",
        decode=_CLEAN_FILES,
        deviations=_CLEAN_DEVIATIONS,
        resize=Resize(filter="bicubic", antialias=True, a=-0.5, clamp=(0.0, 255.0)),
        normalize=_TF,
        statistics=Statistics(mean_dtype="float32"),
        conventions=(("kid", "clean-fid"),),
        source="https://github.com/GaParmar/clean-fid (cleanfid/resize.py, inception_torchscript.py, fid.py)",
    ),
    Protocol(
        name="clean-legacy-tf",
        package="clean-fid 0.1.35, mode='legacy_tensorflow'",
        decode=_CLEAN_FILES,
        deviations=_CLEAN_DEVIATIONS,
        resize=_NVIDIA,
        normalize=_TF,
        statistics=Statistics(mean_dtype="float32"),
        conventions=(("kid", "clean-fid"),),
        source="https://github.com/GaParmar/clean-fid (cleanfid/resize.py, features.py)",
    ),
    Protocol(
        name="clean-legacy-pt",
        package="clean-fid 0.1.35, mode='legacy_pytorch'",
        decode=_CLEAN_FILES,
        deviations=_CLEAN_DEVIATIONS,
        resize=Resize(clamp=(0.0, 255.0)),
        normalize=_PLUS_MINUS_ONE,
        statistics=Statistics(mean_dtype="float32"),
        conventions=(("kid", "clean-fid"),),
        source="https://github.com/GaParmar/clean-fid (cleanfid/resize.py, features.py)",
    ),
    Protocol(
        name="torch-fidelity",
        package="torch-fidelity 0.4.0",
        decode=Decode(recursive=False, extensions=frozenset({"png", "jpg", "jpeg"})),
        deviations=(_NO_ZIPS,),
        resize=_TF1,
        normalize=_TF,
        statistics=Statistics(mean_dtype="float32"),
        root=_EIGVALS,
        conventions=(("is", "torch-fidelity"), ("kid", "torch-fidelity"), ("pr", "torch-fidelity")),
        source="https://github.com/toshas/torch-fidelity (feature_extractor_inceptionv3.py, metric_fid.py)",
    ),
    Protocol(
        name="torchmetrics",
        package="torchmetrics 1.8 and later (antialias=True)",
        decode=_FLAT,
        deviations=(_NO_FOLDERS,),
        resize=Resize(antialias=True, precision="single"),
        normalize=_TF,
        root=_EIGVALS + "; the result is rounded to float32",
        conventions=(("is", "torchmetrics"), ("kid", "torchmetrics")),
        source="https://github.com/Lightning-AI/torchmetrics (src/torchmetrics/image/fid.py)",
    ),
    Protocol(
        name="torchmetrics-1.7",
        package="torchmetrics up to 1.7 (and antialias=False since)",
        decode=_FLAT,
        deviations=(_NO_FOLDERS,),
        resize=_TF1,
        normalize=_TF,
        root=_EIGVALS + "; the result is rounded to float32",
        conventions=(("is", "torchmetrics"), ("kid", "torchmetrics")),
        source="https://github.com/Lightning-AI/torchmetrics (CHANGELOG 1.8.0; src/torchmetrics/image/fid.py)",
    ),
    Protocol(
        name="ttur",
        package="TTUR fid.py (the original, TensorFlow 1)",
        decode=Decode(recursive=False, extensions=frozenset({"jpg", "png"}), any_case=False),
        deviations=(
            _NO_ZIPS,
            "images are sorted by name; it takes .jpg before .png, each as the file system lists them, which decides "
            "what its incomplete last block holds",
            "what is not RGB is converted, and sizes may differ; it stops there",
        ),
        resize=_TF1,
        normalize=_TF,
        statistics=Statistics(block=50),
        source="https://github.com/bioinf-jku/TTUR (fid.py)",
    ),
    Protocol(
        name="adm",
        package="guided-diffusion evaluations/evaluator.py",
        decode=_DEEP,
        deviations=("reads .npz alone; folders and zips by fastfid's own rules",),
        resize=_TF1,
        normalize=_TF,
        statistics=Statistics(mean_dtype="float32"),
        conventions=(("is", "adm"), ("pr", "adm")),
        source="https://github.com/openai/guided-diffusion (evaluations/evaluator.py)",
    ),
    Protocol(
        name="edm",
        package="NVlabs/edm fid.py",
        decode=_PILLOW,
        deviations=_NVIDIA_DEVIATIONS,
        resize=_NVIDIA,
        normalize=_TF,
        root=_NVIDIA_ROOT,
        source="https://github.com/NVlabs/edm (fid.py)",
    ),
    Protocol(
        name="stylegan3",
        package="NVlabs/stylegan3 fid50k_full (also stylegan2-ada-pytorch)",
        decode=_PILLOW,
        deviations=_NVIDIA_DEVIATIONS,
        resize=_NVIDIA,
        normalize=_TF,
        statistics=Statistics(ddof=0),
        root=_NVIDIA_ROOT,
        conventions=(("is", "stylegan"), ("pr", "stylegan")),
        source="https://github.com/NVlabs/stylegan3 (metrics/metric_utils.py, frechet_inception_distance.py)",
    ),
)

PROTOCOLS: MappingProxyType[str, Protocol] = MappingProxyType({entry.name: entry for entry in _ENTRIES})
DEFAULT = "pytorch-fid"


def protocol(name: str | Protocol = DEFAULT) -> Protocol:
    """The protocol of that name; a Protocol passes through, so that a caller's own may stand anywhere a name does.

    Raises:
        ValueError: no protocol has the name; the message lists them, nearest first.
    """
    if isinstance(name, Protocol):
        return name
    if not isinstance(name, str):
        raise TypeError(f"protocol must be a name or a fastfid.Protocol, got {type(name).__name__}")
    try:
        return PROTOCOLS[name]
    except KeyError:
        near = difflib.get_close_matches(name, PROTOCOLS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"protocol={name!r} is not known.{hint} Accepted: {', '.join(PROTOCOLS)}") from None

"""Compiles csrc/ into fastfid._C, a pybind11 module that does not use libtorch. Everything else is in pyproject.toml.

Variables it obeys:
    FASTFID_BUILD_CUDA=auto|0|1   auto (the default): with the CUDA sources if nvcc is found; 1: fail without; 0: never
    FASTFID_CUDA_ARCH="90;100"    compute capabilities to compile for; the last one is also kept as PTX
    CXX, CXXFLAGS, LDFLAGS        the C++ compiler (GCC or Clang, C++17) and further flags
The GPU of the build machine is never asked, and no dependency depends on it.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import subprocess
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
CSRC = ROOT / "csrc"
DEFAULT_ARCHS = "80;86;89;90;100;120"
USUAL_NVCC = Path("/usr/local/cuda/bin/nvcc")

# Compiled once per entry; fastfid._C picks one when it runs (csrc/resample_cpu.cpp). The bits are the same in all.
SIMD_SOURCE = "resample_simd.cpp"
SIMD_LEVELS = {"baseline": []}
if platform.machine().lower() in ("x86_64", "amd64"):
    SIMD_LEVELS["avx2"] = ["-mavx2", "-mfma", "-mf16c"]
    SIMD_LEVELS["avx512"] = [
        *("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni", "-mfma", "-mf16c"),
        "-mprefer-vector-width=512",
    ]

# -ffp-contract=off: a fused multiply-add appears where the source says so and nowhere else, on every machine.
CXX_FLAGS = ["-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-Wall", "-Wextra"]
NVCC_FLAGS = ["-std=c++17", "-O3", "-fmad=false", "-Xcompiler=-fPIC,-fvisibility=hidden", "--expt-relaxed-constexpr"]


class BuildError(SystemExit):
    """Ends the build with one readable message instead of a traceback."""


def find_nvcc() -> tuple[str | None, list[str]]:
    """nvcc's path or None, and the places that were looked at."""
    looked = []
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        home = os.environ.get(variable)
        looked.append(f"${variable}/bin" + (f" ({home}/bin)" if home else " (not set)"))
        if home and (Path(home) / "bin" / "nvcc").is_file():
            return str(Path(home) / "bin" / "nvcc"), looked
    looked.append("$PATH")
    on_path = shutil.which("nvcc")
    if on_path:
        return on_path, looked
    looked.append(str(USUAL_NVCC.parent))
    return (str(USUAL_NVCC) if USUAL_NVCC.is_file() else None), looked


def wanted_nvcc() -> str | None:
    """nvcc if the CUDA sources are to be built, as FASTFID_BUILD_CUDA says."""
    choice = os.environ.get("FASTFID_BUILD_CUDA", "auto")
    if choice not in ("auto", "0", "1"):
        raise BuildError(f"fastfid: FASTFID_BUILD_CUDA={choice!r} is not understood; accepted: auto, 0, 1")
    if choice == "0":
        return None
    nvcc, looked = find_nvcc()
    if nvcc is None and choice == "1":
        raise BuildError(
            "fastfid: FASTFID_BUILD_CUDA=1, but nvcc was not found. Looked in: "
            + ", ".join(looked)
            + ". Install the CUDA toolkit or set CUDA_HOME; FASTFID_BUILD_CUDA=0 builds without CUDA."
        )
    return nvcc


def wanted_archs() -> list[str]:
    """Compute capabilities such as ["80", "90"], from FASTFID_CUDA_ARCH ("80;90", "8.0 9.0", "sm_90")."""
    text = os.environ.get("FASTFID_CUDA_ARCH", DEFAULT_ARCHS)
    archs = [re.sub(r"^(sm_|compute_)", "", item).replace(".", "") for item in re.split(r"[;,\s]+", text) if item]
    if not archs or any(not re.fullmatch(r"\d{2,3}[af]?", arch) for arch in archs):
        raise BuildError(f"fastfid: FASTFID_CUDA_ARCH={text!r} is not understood; give e.g. '80;90;100'")
    return archs


def first_line(command: list[str], pattern: str = "") -> str:
    """The first line of a command's output that matches; "unknown" where the command can't run."""
    try:
        output = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return next((line.strip() for line in output.splitlines() if re.search(pattern, line)), "unknown")


def commit() -> str:
    """The checkout's commit, "unknown" outside a checkout of our own (a source archive inside someone else's)."""
    return first_line(["git", "rev-parse", "--short=12", "HEAD"]) if (ROOT / ".git").exists() else "unknown"


class NinjaBuild(build_ext):
    """Writes a build.ninja into the temporary build folder and runs it: parallel, and only what changed."""

    def build_extension(self, ext: Extension) -> None:
        """Compile and link one extension to where setuptools wants it."""
        nvcc = wanted_nvcc()
        archs = wanted_archs() if nvcc else []
        cxx = shlex.split(os.environ.get("CXX") or sysconfig.get_config_var("CXX") or "c++")
        if shutil.which(cxx[0]) is None:
            raise BuildError(f"fastfid: no C++ compiler: {cxx[0]!r} is not on PATH; install g++ or clang++, or set CXX")
        compiler = first_line([*cxx, "--version"])
        release = first_line([nvcc, "--version"], "release") if nvcc else ""
        nvcc_version = match.group(1) if (match := re.search(r"V([\d.]+)", release)) else release
        facts = {
            "cuda_archs": ";".join(archs),
            "nvcc": nvcc_version,
            "compiler": compiler,
            "simd": ";".join(SIMD_LEVELS),
            "commit": commit(),
        }
        with_cuda = f"CUDA for sm_{';sm_'.join(archs)} with nvcc {nvcc_version}" if nvcc else "no CUDA (nvcc not used)"
        print(f"fastfid: building _C with {compiler}; CPU {facts['simd']}; {with_cuda}", flush=True)

        build = Path(self.build_temp).resolve() / ("cuda" if nvcc else "cpu")
        build.mkdir(parents=True, exist_ok=True)
        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        (build / "build.ninja").write_text(ninja_file(build, target, cxx, nvcc, archs, facts))
        try:
            subprocess.run([*ninja_command(), "--quiet", "-C", str(build)], check=True)
        except subprocess.CalledProcessError as error:
            raise BuildError(f"fastfid: the compiler failed (its messages are above); {error}") from None


def ninja_command() -> list[str]:
    """The ninja of the build environment: the package's program, else the one on PATH."""
    try:
        import ninja
    except ImportError:
        found = shutil.which("ninja")
        if found is None:
            raise BuildError("fastfid: ninja is not installed: pip install ninja") from None
        return [found]
    return [str(Path(ninja.BIN_DIR) / "ninja")]


def ninja_file(
    build: Path, target: Path, cxx: list[str], nvcc: str | None, archs: list[str], facts: dict[str, str]
) -> str:
    """The text of build.ninja: one edge per source (one per SIMD level for SIMD_SOURCE) and one link."""
    import pybind11

    def path(name: Path | str) -> str:
        return str(name).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")

    def words(items: list[str]) -> str:
        return " ".join(shlex.quote(item) for item in items).replace("$", "$$")

    header = "".join(f'#define FASTFID_{key.upper()} "{value}"\n' for key, value in facts.items())
    header += f"#define FASTFID_WITH_CUDA {int(nvcc is not None)}\n"
    facts_file = build / "build_facts.h"
    if not facts_file.exists() or facts_file.read_text() != header:
        facts_file.write_text(header)

    extra = shlex.split(os.environ.get("CXXFLAGS", ""))
    includes = [f"-I{CSRC}", f"-I{build}", f"-isystem{pybind11.get_include()}"]
    includes.append(f"-isystem{sysconfig.get_paths()['include']}")
    link = ["-shared", "-pthread", *shlex.split(os.environ.get("LDFLAGS", "")), *extra]
    if platform.system() == "Darwin":
        link += ["-undefined", "dynamic_lookup"]
    lines = [
        "ninja_required_version = 1.5",
        f"cxx = {words(cxx)}",
        f"cxxflags = {words([*CXX_FLAGS, *extra, *includes])}",
        "rule cxx\n  command = $cxx -MMD -MF $out.d $cxxflags $level -c $in -o $out\n  depfile = $out.d\n  deps = gcc",
    ]
    objects = []
    for source in sorted(CSRC.glob("*.cpp")):
        levels = SIMD_LEVELS if source.name == SIMD_SOURCE else {"": []}
        for level, flags in levels.items():
            name = f"{source.stem}{'.' + level if level else ''}.o"
            objects.append(name)
            lines.append(f"build {name}: cxx {path(source)}")
            lines.append(f"  level = {words([*flags, f'-DFASTFID_LEVEL={level}'] if level else [])}")
    if nvcc:
        codes = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in archs]
        codes.append(f"-gencode=arch=compute_{archs[-1]},code=compute_{archs[-1]}")
        lines.append(f"nvcc = {words([nvcc, '-ccbin', cxx[0], *NVCC_FLAGS, f'-I{CSRC}', f'-I{build}', *codes])}")
        lines.append("rule cuda\n  command = $nvcc -MD -MF $out.d -c $in -o $out\n  depfile = $out.d\n  deps = gcc")
        for source in sorted(CSRC.glob("*.cu")):
            objects.append(f"{source.stem}.cu.o")
            lines.append(f"build {source.stem}.cu.o: cuda {path(source)}")
        # nvcc knows where its own static runtime lies; the module then imports where there is no driver.
        passed = [f"-Xcompiler={flag}" for flag in link if flag != "-shared"]
        command = f"{words([nvcc, '-ccbin', cxx[0], '-shared', '-cudart', 'static', *passed])} $in -o $out"
    else:
        command = f"$cxx $in -o $out {words(link)}"
    lines.append(f"rule link\n  command = {command}")
    lines.append(f"build {path(target)}: link {' '.join(objects)}")
    lines.append(f"default {path(target)}")
    return "\n".join(lines) + "\n"


def every_source() -> list[str]:
    """All of csrc/, so that a source archive is complete whatever its maker could compile."""
    kinds = {".cpp", ".h", ".cu", ".cuh", ".md"}
    return sorted(str(file.relative_to(ROOT)) for file in CSRC.iterdir() if file.suffix in kinds)


if __name__ == "__main__":
    extension = Extension(
        "fastfid._C",
        sources=[name for name in every_source() if name.endswith(".cpp")],
        depends=[name for name in every_source() if not name.endswith(".cpp")],
    )
    setup(ext_modules=[extension], cmdclass={"build_ext": NinjaBuild})

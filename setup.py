"""The two extensions, found by pkg-config; all else stands in pyproject.toml."""

import subprocess

from Cython.Build import cythonize
from setuptools import Extension, setup


def extension(name: str, library: str) -> Extension:
    """An extension module that links a library which pkg-config knows."""
    say = ["pkg-config", "--cflags", "--libs", library]
    flags = subprocess.run(say, check=True, capture_output=True, text=True).stdout.split()
    return Extension(
        f"safe_modprobe.{name}",
        [f"safe_modprobe/{name}.pyx"],
        extra_compile_args=["-O2", "-Wall", *[flag for flag in flags if flag.startswith("-I")]],
        extra_link_args=[flag for flag in flags if flag.startswith(("-l", "-L"))],
    )


setup(ext_modules=cythonize([extension("kmod", "libkmod"), extension("zstd", "libzstd")], build_dir="build"))

"""Build the two extension modules with the flags of pkg-config. All other settings are in pyproject.toml."""

import subprocess

from Cython.Build import cythonize
from setuptools import Extension, setup


def extension(name: str, library: str) -> Extension:
    """Return an extension module that links a library, with its flags from pkg-config."""
    command = ["pkg-config", "--cflags", "--libs", library]
    flags = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return Extension(
        f"safe_modprobe.{name}",
        [f"safe_modprobe/{name}.pyx"],
        extra_compile_args=["-O2", "-Wall", *[flag for flag in flags if flag.startswith("-I")]],
        extra_link_args=[flag for flag in flags if flag.startswith(("-l", "-L"))],
    )


setup(ext_modules=cythonize([extension("kmod", "libkmod"), extension("zstd", "libzstd")], build_dir="build"))

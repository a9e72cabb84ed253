"""Packaging of dynamarks_tf. Tool settings are in pyproject.toml."""

import runpy
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = runpy.run_path(str(HERE / "dynamarks_tf" / "_version.py"))["__version__"]

DATASETS = ["scikit-learn>=1.4"]
PLOTS = "matplotlib>=3.8"
SCIPY = "scipy>=1.15"
PROXY = [
    "aiohttp>=3.11",
    "google-crc32c>=1.5",  # checksums of the log
    "prometheus-client>=0.20",
]

setup(
    name="dynamarks_tf",
    version=VERSION,
    description="Prove that a Keras classifier was stolen through its prediction API",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["dynamarks_tf", "dynamarks_tf.*"]),
    package_data={"dynamarks_tf": ["py.typed"]},
    install_requires=[
        "tensorflow>=2.20",
        "keras>=3.12",
        "tensorflow-serving-api>=2.18",
        "numpy>=1.26",
        "cryptography>=42",  # HKDF-SHA256 and ChaCha20: the expansion of the key
        "click>=8.1",  # command line
        "rich>=13",  # progress bars and tables; Keras depends on it as well
        "requests>=2.31",  # REST suspects
        "werkzeug>=3.0",  # local server, REST: requests and responses
        "waitress>=3.0",  # local server, REST: the HTTP server itself
        "wrapt>=1.14",  # registers the layer when Keras is imported; TensorFlow depends on it as well
    ],
    extras_require={
        "demo": DATASETS,
        "proxy": PROXY,
        "study": [
            *DATASETS,
            SCIPY,  # benchmarks/peers
            PLOTS,  # of audits and studies
            "pillow>=10.1",  # benchmarks/glyphs.py
        ],
        "test": [
            *DATASETS,
            *PROXY,
            "compose-pydantic>=0.2.2",  # tests/serving: the compose file against its specification
            "hypothesis>=6.100",
            "jax>=0.4.30",
            "kubernetes-validate>=1.33",  # tests/serving: manifests against Kubernetes' own schemas
            "mypy>=1.11",
            "pytest>=8",
            "ruff>=0.6",
            "pillow>=10.1",
            PLOTS,
            SCIPY,
            "pyyaml>=6",
            "types-requests",
        ],
    },
    entry_points={"console_scripts": ["dynamarks = dynamarks_tf.cli:run"]},
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Security",
        "Typing :: Typed",
    ],
)

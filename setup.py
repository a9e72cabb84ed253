"""Packaging of dynamarks_tf. Tool settings are in pyproject.toml."""

import runpy
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = runpy.run_path(str(HERE / "dynamarks_tf" / "_version.py"))["__version__"]

DATASETS = ["scikit-learn>=1.4"]
DOCS = ["mkdocs>=1.6", "mkdocs-material>=9.5", "mkdocstrings[python]>=0.26"]
PLOTS = "matplotlib>=3.8"
SCIPY = "scipy>=1.15"

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
        "docs": DOCS,
        "study": [
            *DATASETS,
            SCIPY,  # benchmarks/peers
            PLOTS,  # of audits and studies
            "pillow>=10.1",  # benchmarks/glyphs.py
        ],
        "test": [
            *DATASETS,
            *DOCS,
            "check-wheel-contents>=0.6",
            "hypothesis>=6.100",
            "ipykernel>=6.29",  # examples/quickstart.ipynb
            "jax>=0.4.30",
            "mypy>=1.11",
            "nbclient>=0.10",
            "pytest>=8",
            "ruff>=0.6",
            "setuptools>=77",  # builds the wheel that is tested
            "sybil>=9",  # runs the code blocks of the documentation
            "pillow>=10.1",
            PLOTS,
            SCIPY,
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

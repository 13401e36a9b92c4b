"""Packages and dependencies. Tool settings are in pyproject.toml, exact versions in constraints.txt.

The top-level folders `models/`, `tasks/` and `launch/` are installed as `t2t.models`, `t2t.tasks` and `t2t.launch`. Top-level packages named
`models` and `tasks` would shadow the users' own packages.
"""

from pathlib import Path

from setuptools import find_packages, setup

FOLDERS = ("models", "tasks", "launch")

engine = ["t2t"] + [f"t2t.{name}" for name in find_packages("t2t") if name.split(".")[0] not in FOLDERS]
mapped = [
    package
    for folder in FOLDERS
    for package in [f"t2t.{folder}", *(f"t2t.{folder}.{name}" for name in find_packages(folder))]
]

quantized = ["qwix>=0.1.8,<0.2"]
# Beam requires protobuf < 7. SentencePiece >= 0.2.3 needs protobuf 7, but does not declare it.
cache = ["apache-beam>=2.70,<3", "sentencepiece<0.2.3"]

# Indirect dependencies. The minimum versions fix known vulnerabilities that an untrusted file or server could exploit. See docs/security.md.
safe = [
    "certifi>=2024.7.4",
    "filelock>=3.20.3",
    "fonttools>=4.60.2",
    "h11>=0.16",
    "idna>=3.7",
    "keras>=3.12",
    "nltk>=3.9.3",
    "pillow>=12.1.1",
    "protobuf>=6.33.5",
    "requests>=2.32.4",
    "setuptools>=78.1.1",
    "tqdm>=4.66.3",
    "urllib3>=2.6.3",
]

setup(
    name="t2t-jax",  # the name t2t is taken on PyPI
    version="0.1.0",
    description="Train text-to-text models in JAX: task registries, sharded encoders, decoders and encoder-decoders",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.14",
    packages=engine + mapped,
    package_dir={f"t2t.{folder}": folder for folder in FOLDERS},
    package_data={"t2t": ["py.typed"], "t2t.api": ["*.html"], "t2t.launch.launchers": ["*.jinja"]},
    install_requires=[
        "jax>=0.10,<0.13",
        "flax>=0.12.8,<0.13",
        "optax>=0.2.6,<0.3",
        "orbax-checkpoint>=0.12,<0.13",
        "seqio>=0.0.20,<0.1",
        "tensorflow>=2.20,<2.22",
        "tensorflow-datasets>=4.9.9,<5",
        "importlib-resources>=6,<8",  # TensorFlow Datasets imports it, but does not declare it
        "numpy>=2,<3",
        "jaxtyping>=0.3,<0.4",
        "tyro>=0.9,<2",
        "rich>=14,<16",
        "safetensors>=0.5,<0.9",
        "flatbuffers>=24.3.25",
        "etils[epath]>=1.9,<2",
        "sentencepiece>=0.2,<0.3",
        "tokenizers>=0.21,<0.24",
        "pyarrow>=18",
        "tensorboardX>=2.6,<3",
        "matplotlib>=3.9,<4",
        "jinja2>=3.1.6,<4",
        "pyyaml>=6,<7",
        "sacrebleu>=2.4,<3",
        "rouge-score>=0.1.2,<0.2",
        "scikit-learn>=1.5,<2",
        "scipy>=1.13,<2",
        "array-record>=0.8.1,<0.9; sys_platform != 'win32'",
        *safe,
    ],
    extras_require={
        "gpu": ["jax[cuda13]>=0.10,<0.13"],
        "tpu": ["jax[tpu]>=0.10,<0.13"],
        "cache": cache,
        "gguf": ["gguf>=0.17,<1"],
        "quantized": quantized,
        "interop": ["torch>=2.6", "transformers>=5.23,<6", "gguf>=0.17,<1"],
        "dev": [
            "pytest>=8",
            "pytest-xdist>=3.6",
            "pytest-cov>=5",
            "hypothesis>=6.100",
            "ruff>=0.9",
            "mypy>=1.13",
            "import-linter>=2.1",
            "pre-commit>=4",
            "nbclient>=0.10",
            "ipykernel>=6.29",
            "gguf>=0.17,<1",
            *cache,
            *quantized,
        ],
    },
    entry_points={"console_scripts": ["t2t=t2t.launch.main:main"]},
)

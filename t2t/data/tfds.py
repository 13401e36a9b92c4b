"""Datasets of TensorFlow Datasets (TFDS): find them, and prepare them if needed.

A small dataset is downloaded and prepared when it is first read. A dataset that Beam makes from terabytes (C4) is not: the error says how to prepare it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any

import seqio

from t2t.errors import Failure, UserError

VARIABLE = "T2T_DATA_DIR"
"""Environment variable that names the directory of all datasets, even if a source names another. TFDS_DATA_DIR applies only to sources that name none."""
_HELP = "see 'Data sets of TFDS' in docs/tasks.md"
_log = logging.getLogger(__name__)

if os.environ.get(VARIABLE):
    seqio.set_tfds_data_dir_override(os.path.expanduser(os.environ[VARIABLE]))


def prepare(source: seqio.DataSource) -> None:
    """Prepare the datasets of a TFDS source that are not prepared yet. Do nothing for other sources.

    Raises:
      UserError: the dataset, version or configuration is unknown, or the dataset cannot be prepared here: it is made by Beam, needs files
        that must be downloaded by hand, or has a version that the installed TFDS does not make.
      Failure: the download or the preparation failed.
    """
    for builder in _builders(source):
        if not builder.is_prepared():
            _prepare(builder)


def prepare_for_splits(source: seqio.DataSource) -> None:
    """Prepare the dataset of a source that does not list its splits: TFDS knows them once it is prepared. Raises the errors of `prepare`."""
    if isinstance(source, seqio.TfdsDataSource) and not seqio.DataSource.splits.fget(source):
        prepare(source)


def prepared(source: seqio.DataSource) -> bool:
    """Return whether the source's datasets are prepared; True for a source that is not TFDS. Raises UserError for an unknown dataset."""
    return all(builder.is_prepared() for builder in _builders(source))


def _builders(source: seqio.DataSource) -> Iterator[Any]:
    if not isinstance(source, seqio.TfdsDataSource):
        return
    import tensorflow_datasets as tfds

    loader = source.tfds_dataset
    tfds_splits = loader.tfds_splits
    datasets = [(split.dataset, split.data_dir) for split in tfds_splits.values()] if tfds_splits else [(None, None)]
    for dataset, directory in dict.fromkeys(datasets):
        try:
            if tfds_splits is None:
                yield loader.builder
            else:
                yield tfds.builder(dataset, data_dir=directory) if dataset else tfds.builder_from_directory(directory)
        except (tfds.core.registered.DatasetNotFoundError, ValueError, AssertionError, OSError) as error:
            name = dataset or loader.name or directory
            raise UserError(f"data set {name!r} of TFDS: {_first_line(error)}") from None


def _prepare(builder: Any) -> None:
    import tensorflow_datasets as tfds

    name = builder.info.full_name.replace("/" + str(builder.version), f":{builder.version}")
    missing = f"data set {name!r} is not prepared in {builder.data_dir}"
    where = f"(--data-dir, {VARIABLE} or TFDS_DATA_DIR name another directory than {builder.data_dir_root})"
    if isinstance(builder, tfds.core.BeamBasedBuilder):
        versions_directory = builder.data_path.parent
        versions = sorted(path.name for path in versions_directory.iterdir()) if versions_directory.is_dir() else []
        raise UserError(
            f"{missing} {where} and is too large to prepare here: run `tfds build {name} --data_dir {builder.data_dir_root}`, which uses Beam; {_HELP}."
            + (f" Nearest: version {', '.join(versions)}, which exists." if versions else "")
        )
    if type(builder).__name__ == "ReadOnlyBuilder":
        raise UserError(f"{missing} {where}; {_HELP}.")
    _log.warning("%s: downloading and preparing it now", missing)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # stdout is for results only
            builder.download_and_prepare()
    except (
        ValueError,
        AssertionError,
    ) as error:  # a version that TFDS cannot make, or files that need a manual download
        raise UserError(f"{missing} {where}, and TFDS cannot prepare it: {_first_line(error)}") from error
    except ImportError as error:
        raise Failure(f"{missing}; preparing it needs the package {error.name}: pip install {error.name}") from error
    except Exception as error:  # downloads fail with many kinds of errors
        raise Failure(f"{missing}, and preparing it failed: {type(error).__name__}: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines)[:400] or type(error).__name__

"""Several processes that train one model: how they connect, and what only the main one does."""

import importlib.util
import os
import sys
from collections.abc import Mapping

import jax
import numpy as np
from jax.experimental import multihost_utils

from block_recurrent.config.device_options import DistributedConfig
from block_recurrent.errors import UserError, first_line

# Environment variables in which launchers give the number of processes.
SIZE_VARIABLES = {"slurm": "SLURM_NTASKS", "ompi": "OMPI_COMM_WORLD_SIZE"}


def connect(config: DistributedConfig, process_id: int | None = None):
    """Connects to the other processes, if any. Call this before JAX initialises its devices.

    Args:
      config: how processes find each other.
      process_id: index of this process, from 0, if no cluster provides it.

    Raises:
      UserError: only some of coordinator_address, num_processes and process_id are given, or the
        id is out of range.
      ConnectionError: the other processes do not answer; trying again may help.
    """
    given = (config.coordinator_address, config.num_processes, process_id)
    if any(value is not None for value in given):
        if None in given:
            raise UserError(
                "joining other processes needs coordinator_address, num_processes and process_id: "
                f"give all three, not {given}"
            )
        if not 0 <= process_id < config.num_processes:
            raise UserError(
                f"process_id = {process_id}: choose from 0 to {config.num_processes - 1}, "
                "a different one for each process"
            )
        found = {
            "coordinator_address": config.coordinator_address,
            "num_processes": config.num_processes,
            "process_id": process_id,
            "cluster_detection_method": "deactivate",
        }
    elif (cluster := detect_cluster(config.cluster, os.environ)) is not None:
        found = {} if cluster == "tpu" else {"cluster_detection_method": cluster}
    else:
        return
    try:
        jax.distributed.initialize(**found, heartbeat_timeout_seconds=config.heartbeat_seconds)
    except (RuntimeError, ValueError) as error:
        if config.cluster == "auto" and found == {}:  # a TPU with one host needs no coordinator
            return
        message = f"cannot join the other processes ({first_line(error)}): {found}"
        raise ConnectionError(message) from error


def detect_cluster(cluster: str, environment: Mapping[str, str]) -> str | None:
    """The kind of cluster that this process runs in; None if it runs alone."""
    if cluster != "auto":
        return None if cluster == "none" else cluster
    for name, size in SIZE_VARIABLES.items():
        if int(environment.get(size, 1)) > 1:
            return name
    return "tpu" if importlib.util.find_spec("libtpu") else None


def is_main_process() -> bool:
    """Whether this is process 0, the only one that prints and writes files."""
    return jax.process_index() == 0


def wait_for_others(what: str):
    """Waits until every process has called this with the same `what`."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def all_processes_true(value: bool) -> bool:
    """Whether the value is true in every process. Every process must call this."""
    return bool(np.all(multihost_utils.process_allgather(np.array(value))))


def print_once(text: str):
    """Prints a line, only in process 0."""
    if is_main_process():
        print(text, flush=True)


def print_from_process(text: str):
    """Prints a line to standard error, with the index of this process."""
    print(f"process {jax.process_index()}: {text}", file=sys.stderr, flush=True)

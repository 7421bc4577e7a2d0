"""What jobs ask Slurm for, and whether it can give it; see `docs/cluster.md`."""

import time

from snakemake.cli import get_profile_dir
from snakemake.resources import Resource

from medtune.orchestration.slurm import (
    Request,
    check_dropped_gpus,
    check_request,
    check_slurm,
    partition_nodes,
)
from medtune.orchestration.slurm_memory import Attempts


def of_profile(resources):
    """Return resources as the profile or command line gives them, by name."""
    return {name: resource.raw for name, resource in resources.items()}


def slurm_gpus(name):
    """Return how Slurm is asked for the GPUs that the profile gives a rule, once per allocation.

    The executor would start a task for each GPU; the processes are `medtune launch`'s business,
    which on several nodes calls `srun` itself (`mpi`).
    """
    given = of_profile(workflow.resource_settings.overwrite_resources.get(name) or {})
    gpus, nodes = int(given.get("gpus_per_node", 0)), int(given.get("nodes", 1))
    if not gpus:
        return {}
    kind = f"{given['gpu_type']}:" if "gpu_type" in given else ""
    tasks = {"mpi": "srun", "tasks": nodes} if nodes > 1 else {}
    return {"gres": f"gpu:{kind}{gpus}", "tasks_per_gpu": 0} | tasks


def gpu_threads(wildcards):
    """Return the cores of a job that uses a GPU if there is one: as many as a node has for a GPU.

    Without a cluster all, so that one such job runs at a time: each takes the whole GPU.
    """
    return 16 if workflow.non_local_exec or workflow.remote_exec else workflow.cores


def profile_name():
    """Return the profile that the command line or the environment names."""
    words = [part for word in sys.argv for part in word.split("=", 1)]
    if "--profile" in words[:-1]:
        return words[words.index("--profile") + 1]
    return os.environ.get("SNAKEMAKE_PROFILE", "slurm")


def memory_grows_if_it_ran_out():
    """Let `attempt` in an expression of `mem_mb` count only attempts that ran out of memory.

    So an attempt after a time limit asks for no more than the one before, and none for more than a
    node of its partition has.
    """
    attempts = Attempts(since=time.time())

    def grown(given, partition):
        def memory(wildcards, input, attempt, threads, rulename, async_run):
            job = (rulename, "_".join(wildcards))
            known = dict(input=input, threads=threads, rulename=rulename)
            known |= dict(async_run=async_run)
            first = given.evaluate(wildcards, attempt=1, **known).value
            if attempt == 1:
                return first
            attempts.wait_after_refusal(*job, attempt)
            times = 1 + attempts.out_of_memory(*job)
            most = max((node.mem_mb for node in partition_nodes(partition)), default=0)
            return min(
                given.evaluate(wildcards, attempt=times, **known).value,
                max(first, most),
            )

        return memory

    for each in workflow.rules:
        given, partition = map(each.resources.get, ("mem_mb", "slurm_partition"))
        if given is not None and partition is not None:
            each.resources["mem_mb"] = Resource(
                "mem_mb", grown(given, partition.raw), raw=given.raw
            )


def check_submission():
    """Check that Slurm can do what the profile asks for."""
    given = workflow.resource_settings
    everywhere = of_profile(given.default_resources or {})
    by_name = {"default-resources": everywhere} | {
        name: everywhere | of_profile(values)
        for name, values in given.overwrite_resources.items()
    }
    jobs = {job.rule.name: job for job in workflow.dag.needrun_jobs()}
    chosen = get_profile_dir(profile_name())
    if chosen:
        check_dropped_gpus(chosen[1], by_name, jobs)
    check_slurm(
        workflow.executor_settings.status_command,
        workflow.executor_settings.init_seconds_before_status_checks,
        {n: v["slurm_partition"] for n, v in by_name.items() if "slurm_partition" in v},
        {name for name, values in by_name.items() if values.get("gpus_per_node")},
    )
    for job in jobs.values():
        if not workflow.is_local(job.rule):
            check_request(largest_request(job))


def largest_request(job):
    """Return the most that the attempts of a job ask Slurm for; memory grows to what a node has."""
    first = job.resources
    last = job.rule.resources["runtime"].evaluate(
        job.wildcards,
        input=job.input,
        attempt=1 + job.restart_times,
        threads=job.threads,
        rulename=job.rule.name,
        async_run=workflow.async_run,
    )
    return Request(
        job.rule.name,
        first.get("slurm_partition", ""),
        nodes=first.get("nodes", 1),
        cpus=first.get("cpus_per_task", job.threads),
        mem_mb=first.get("mem_mb", 0),
        minutes=last.value,
        gpus=first.get("gpus_per_node", 0),
    )

"""A real Slurm of three nodes on this host, for the tests: `python tests/slurm/cluster.py start`.

    apt-get install --no-install-recommends slurmctld slurmd slurm-client munge
    python tests/slurm/cluster.py start | stop

Two nodes `cpu[1-2]` and two with pretended GPUs, `gpu[1-2]`, no accounting database. It needs root,
and refuses a host that is configured for another cluster.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

CONFIG = Path("/etc/slurm/slurm.conf")
NODES = ("cpu1", "cpu2", "gpu1", "gpu2")
MARK = "# medtune's tests wrote this file"
# Slurm's steps look for it there only. Two real cores pose as four nodes of four.
SLURM_CONF = f"""{MARK}
ClusterName=sim
SlurmctldHost=localhost
SlurmUser=root
AuthType=auth/munge
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
ReturnToService=2
SlurmctldPidFile=/run/slurm/slurmctld.pid
SlurmdPidFile=/run/slurm/slurmd-%n.pid
SlurmdSpoolDir=/var/spool/slurmd-%n
StateSaveLocation=/var/spool/slurmctld
SlurmctldLogFile=/var/log/slurm/slurmctld.log
SlurmdLogFile=/var/log/slurm/slurmd-%n.log
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MinJobAge=300
InactiveLimit=0
KillWait=30
Waittime=0
SlurmdTimeout=30
EnforcePartLimits=ALL
GresTypes=gpu
DefMemPerCPU=100
NodeName=cpu[1-2] NodeHostname=localhost NodeAddr=127.0.0.1 Port=[17001-17002] CPUs=4 \
RealMemory=8000 State=UNKNOWN
NodeName=gpu[1-2] NodeHostname=localhost NodeAddr=127.0.0.1 Port=[17003-17004] CPUs=4 \
RealMemory=8000 Gres=gpu:2 State=UNKNOWN
PartitionName=cpu Nodes=cpu[1-2] Default=YES MaxTime=INFINITE State=UP
PartitionName=gpu Nodes=gpu[1-2] MaxTime=INFINITE State=UP
"""
# A GPU must be a device; these are never opened.
GRES_CONF = f"{MARK}\nNodeName=gpu[1-2] Name=gpu File=/dev/tty[1-2]\n"


def run(*command: str) -> str:
    """Return what a command prints; it must succeed."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def unusable() -> str | None:
    """Return why there can be no cluster here, or None."""
    missing = [
        name for name in ("slurmctld", "slurmd", "sbatch", "munged") if not shutil.which(name)
    ]
    if missing:
        return f"not installed: {', '.join(missing)} (see tests/slurm/cluster.py)"
    if os.geteuid() != 0:
        return "starting Slurm's daemons needs root"
    if CONFIG.exists() and MARK not in CONFIG.read_text():
        return f"{CONFIG} belongs to another cluster"
    return None


def start() -> None:
    """Start the daemons and wait until every node is idle; anew if they run."""
    if reason := unusable():
        raise SystemExit(f"no Slurm: {reason}")
    stop()
    for folder in ("/run/munge", "/run/slurm", "/var/log/slurm", "/var/spool/slurmctld"):
        Path(folder).mkdir(parents=True, exist_ok=True)
    for node in NODES:
        Path(f"/var/spool/slurmd-{node}").mkdir(parents=True, exist_ok=True)
    shutil.chown("/run/munge", "munge", "munge")
    CONFIG.parent.mkdir(exist_ok=True)
    CONFIG.write_text(SLURM_CONF)
    CONFIG.with_name("gres.conf").write_text(GRES_CONF)
    run("runuser", "-u", "munge", "--", shutil.which("munged") or "munged")
    run("slurmctld")
    for node in NODES:
        run("slurmd", "-N", node)
    end = time.monotonic() + 30
    while set(run("sinfo", "-h", "-N", "-o", "%T").split()) != {"idle"}:
        if time.monotonic() > end:
            raise SystemExit("no Slurm: the nodes did not come up:\n" + run("sinfo", "-N", "-l"))
        time.sleep(0.2)


def stop() -> None:
    """Stop all daemons of this cluster and forget its jobs."""
    if CONFIG.exists() and MARK in CONFIG.read_text():
        for name in ("slurmd", "slurmctld", "slurmstepd", "munged"):
            subprocess.run(["pkill", "-9", "-x", name], check=False)
        shutil.rmtree("/var/spool/slurmctld", ignore_errors=True)
        CONFIG.unlink()


if __name__ == "__main__":
    {"start": start, "stop": stop}[sys.argv[1]]()

"""Scripts that submit the shards of a job: a job array of Slurm, an indexed job of Kubernetes.

What asyncgen cannot know (time limit, image, volume) is at the top of the script, or under a comment that begins with
"set". Submits nothing.
"""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_SLURM = """\
#!/bin/bash
# {count} shards of {job}. Submit it with: sbatch FILE
# To continue, submit it again. The number of shards can change: adapt --array and --shard.
#SBATCH --job-name={name}
#SBATCH --array=0-{last}
#SBATCH --time=04:00:00
#SBATCH --cpus-per-task=2
#SBATCH --mem=4G
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@300
# 5 minutes before the time is up, USR1 lets the shard finish what is in flight; then it is queued again.

{command} &
shard=$!
trap 'kill -USR1 "$shard" 2>/dev/null' USR1
trap 'kill -TERM "$shard" 2>/dev/null' TERM
wait "$shard"; code=$?
while kill -0 "$shard" 2>/dev/null; do wait "$shard"; code=$?; done  # a signal ends a wait, not the shard

# 138: stopped by USR1, rows are left. 3: done, some rows failed. 2, 4, 5: job file, key, budget: no use to try again.
if [ "$code" = 138 ]; then
    scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"
fi
exit "$code"
"""

_KUBERNETES = """\
# {count} shards of {job}. Submit it with: kubectl apply -f FILE
# Delete the job before it is submitted again; for another number of shards change completions, parallelism, --shard.
apiVersion: batch/v1
kind: Job
metadata:
  name: {name}
spec:
  completionMode: Indexed
  completions: {count}
  parallelism: {count}
  backoffLimitPerIndex: 5
  podFailurePolicy:
    rules:
      - action: Ignore  # moved to another machine: goes on where it stopped
        onPodConditions:
          - type: DisruptionTarget
      - action: FailIndex  # job file, rows that failed, key, budget: no use to try again
        onExitCodes:
          containerName: asyncgen
          operator: In
          values: [2, 3, 4, 5]
  template:
    spec:
      restartPolicy: Never
      terminationGracePeriodSeconds: 600  # after TERM the shard finishes what is in flight
      containers:
        - name: asyncgen
          image: asyncgen:latest  # set: an image with asyncgen in it
          workingDir: /work
          command: {command}
          envFrom:
            - secretRef:
                name: asyncgen-keys  # set: a secret with the provider's key variable
                optional: true
          volumeMounts:
            - name: work
              mountPath: /work
      volumes:
        - name: work
          persistentVolumeClaim:
            claimName: asyncgen-work  # set: a volume that all machines write, with the job file and the runs
"""


def shard_script(kind: str, arguments: Sequence[str], count: int, *, job: str, name: str) -> str:
    """Write the script that submits all shards of a run.

    Args:
        kind: `slurm` or `k8s`.
        arguments: of `asyncgen`, without those that name a shard.
        count: number of shards.
        job: the job file, for a comment.
        name: name of the job.

    Returns:
        The script.
    """
    name = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:50].strip("-") or "job"
    words = ["asyncgen", *arguments, "--shard"]
    if kind == "slurm":
        command = f'{shlex.join(words)} "$SLURM_ARRAY_TASK_ID/{count}"'
        return _SLURM.format(count=count, last=count - 1, job=job, name=name, command=command)
    command = "[" + ", ".join(_quoted(word) for word in [*words, f"/{count}"]) + "]"
    return _KUBERNETES.format(count=count, job=job, name=f"asyncgen-{name}", command=command)


def _quoted(word: str) -> str:
    """A word as a YAML string; `$(NAME)` would be a variable of the container."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("$(", "$$(")
    return f'"{escaped}"'

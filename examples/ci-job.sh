#!/bin/sh
# A job of a CI system on a container host of its own: made, used, and removed whatever happens.
#
#   MACHINE_DRIVER=aws AWS_REGION=eu-west-1 examples/ci-job.sh docker run --rm busybox make test
#
# The driver and its options come from the environment (`machine create -d DRIVER --help` names the variables), the
# command from the arguments. Credentials are found where the driver's provider always finds them.
set -eu

[ $# -gt 0 ] || { echo "usage: $0 COMMAND [ARGUMENT]..." >&2; exit 2; }

# A name of its own for each job, so that jobs run side by side.
job=$(printf %s "${CI_JOB_ID:-$$}" | tr -c '0-9A-Za-z\n' -)
host=${CI_HOST:-ci-$job}

remove() {
    status=$?
    trap - EXIT INT TERM
    # A host that cannot be removed stays recorded, so that this can be repeated by hand.
    machine rm -y "$host" >&2 || echo "$host could not be removed; run: machine rm -y $host" >&2
    exit "$status"
}

# A host that fails to come up is undone at once, and a name that is taken belongs to somebody else: in both cases there
# is nothing for us to remove. What `create` says goes to the job's log.
machine create --on-failure undo "$host" >&2
trap remove EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

eval "$(machine env --shell sh "$host")"
"$@"

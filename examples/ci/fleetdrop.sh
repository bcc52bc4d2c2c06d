#!/usr/bin/env bash
# What the pipelines of this directory do with fleetdrop, said once. Copy it to ci/fleetdrop.sh.
#
#   ci/fleetdrop.sh pack DIR    makes artifact.tar.zst of what is in DIR
#   ci/fleetdrop.sh plan        checks the playbook and shows what a deploy would do; changes nothing
#   ci/fleetdrop.sh deploy      deploys artifact.tar.zst
#   ci/fleetdrop.sh rollback    goes back to $RELEASE, or on each host to the release before the current one
#
# All settings come from the environment, so that no secret and nothing that somebody typed into a form is ever part of a command line:
#
#   ENVIRONMENT             which fleet: deploy/inventories/$ENVIRONMENT.yaml
#   SSH_PRIVATE_KEY         the key to log in with, or SSH_PRIVATE_KEY_FILE, a file that holds it
#   SSH_KNOWN_HOSTS         the hosts' keys, in the form of known_hosts, or SSH_KNOWN_HOSTS_FILE
#   RELEASE                 for rollback: a release as `fleetdrop releases` lists it; empty for the previous one
#   FLEETDROP_HISTORY       the history's file, if not the one in the home directory; `none` keeps none
#   FLEETDROP_OPTIONS       more options for every command, separated by blanks, such as `--connect-timeout 30s`
#   FLEETDROP_DEPLOY        more options for plan and deploy, such as `--advertise 10.0.0.5`
#
# What fleetdrop reports is kept in reports/.
set -euo pipefail

readonly artifact=artifact.tar.zst playbook=deploy/playbook.yaml reports=reports

fail() {
    echo "error: $1" >&2
    exit 5
}

# Prints the name of a new file, which only this user may read, with the secret of that name.
secret() {
    local name=$1 file=$1_FILE copy=$private/$1
    if [ -n "${!file:-}" ]; then
        # Some stores strip the last line's end, and ssh keys need theirs.
        { cat -- "${!file}" && echo; } >"$copy"
    elif [ -n "${!name:-}" ]; then
        printf '%s\n' "${!name}" >"$copy"
    else
        fail "neither $name nor $file is set: add the secret to this environment"
    fi
    echo "$copy"
}

# The same files make the same artifact, and hosts that have it already are left alone.
pack() {
    [ -d "${1:-}" ] || fail "pack needs the directory that the build filled"
    tar --sort=name --owner=0 --group=0 --numeric-owner --mtime="@${SOURCE_DATE_EPOCH:-0}" \
        --create --zstd --file "$artifact" --directory "$1" .
}

# Reads the settings that every command on a fleet needs.
prepare() {
    local inventory=deploy/inventories/${ENVIRONMENT:-}.yaml key known_hosts more
    case ${ENVIRONMENT:-} in
    '' | *[!a-z0-9-]*) fail "ENVIRONMENT must be the name of an environment: small letters, digits and -" ;;
    esac
    [ -f "$inventory" ] || fail "there is no $inventory"
    mkdir -p "$reports"
    umask 077
    private=$(mktemp -d)
    trap 'rm -rf -- "$private"' EXIT
    key=$(secret SSH_PRIVATE_KEY)
    known_hosts=$(secret SSH_KNOWN_HOSTS)
    unset SSH_PRIVATE_KEY SSH_KNOWN_HOSTS
    read -r -a more <<<"${FLEETDROP_OPTIONS:-}"
    read -r -a deploy <<<"${FLEETDROP_DEPLOY:-}"
    fleet=(--hosts "$inventory" --playbook "$playbook" --identity-file "$key" --known-hosts "$known_hosts"
        --host-key-checking strict "${more[@]}")
    case ${FLEETDROP_HISTORY:-} in
    '') history=() ;;
    none) history=(--no-history) ;;
    *) history=(--history "$FLEETDROP_HISTORY") ;;
    esac
}

# A plan that some hosts would drop out of is shown and goes on, as the deploy would; one that is stopped because they are too many ends here.
plan() {
    local code=0
    fleetdrop playbook check "$playbook"
    fleetdrop plan "$artifact" "${fleet[@]}" "${deploy[@]}" --output plain >"$reports/plan.txt" || code=$?
    cat "$reports/plan.txt"
    case $code in
    0) ;;
    2 | 4 | 6) echo "warning: some hosts would drop out, see above" >&2 ;;
    8) echo "error: too many hosts would drop out, see above" >&2 && exit 8 ;;
    *) exit "$code" ;;
    esac
}

# Runs fleetdrop to its end, also when the job is cancelled: people's text goes to the job's log, the events to a report.
run() {
    report=$reports/$1.ndjson
    local code signalled=yes
    cancelled=
    trap cancel INT TERM
    fleetdrop "$@" --output json "${history[@]}" >"$report" &
    # A signal ends `wait` before fleetdrop has ended.
    while [ -n "$signalled" ]; do
        signalled=
        code=0
        wait "$!" || code=$?
    done
    explain "$code"
    exit "$code"
}

# The first signal makes fleetdrop stop cleanly, a second one at once. CI systems differ in who gets their signal: the job's first
# process or all of them. So it is passed on only if fleetdrop has not got it.
cancel() {
    signalled=yes
    [ -z "$cancelled" ] || return 0
    cancelled=yes
    sleep 1
    grep -q '"event":"interrupted"' "$report" || kill -TERM "$!" 2>/dev/null || true
}

explain() {
    case $1 in
    0) echo "every host is active" ;;
    2) echo "error: some hosts failed and keep the release they had; the others are live" ;;
    4) echo "error: some hosts could not be reached; the others are live" ;;
    6) echo "error: some hosts failed, some could not be reached; the others are live" ;;
    5) echo "error: bad usage or input, no host was touched" ;;
    8) echo "error: too many hosts failed: it was stopped, and rolled back if the playbook says so; see the summary above" ;;
    130) echo "error: cancelled; see the summary above for where each host is" ;;
    *) echo "error: fleetdrop could not go on (exit code $1); see above, and run it again: hosts keep what they have" ;;
    esac >&2
}

case ${1:-} in
pack) pack "${2:-}" ;;
plan)
    prepare
    plan
    ;;
deploy)
    prepare
    run deploy "$artifact" "${fleet[@]}" "${deploy[@]}"
    ;;
rollback)
    prepare
    # fleetdrop refuses what is no release's name.
    run rollback "${fleet[@]}" ${RELEASE:+"--to=$RELEASE"}
    ;;
*) fail "usage: ci/fleetdrop.sh pack DIR | plan | deploy | rollback" ;;
esac

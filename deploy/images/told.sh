# told LOG COMMAND...: run a command, and exit with a status that says whose fault a failure is.
# started COMMAND...: start and use a stack, and exit in the same way.
#
# Sourced by build.sh. `told` prints the end of the log on failure. Exits with 75 where a registry of packages or
# the machine failed, after three attempts, and with 1 for a fault of our own. fault=75 says that a command
# has no part of ours.

# A registry that is busy or away, after pip, npm and apt have tried several times, and a full disk.
registry='[Tt]imed out|[A-Za-z]Timeout|Connection (reset|refused|broken|aborted)|Temporary failure|ECONNRESET|ETIMEDOUT|EAI_AGAIN|IncompleteRead|(HTTP|error|status|code):? ?(Error )?50[234]|Too Many Requests|(Failed|Unable) to fetch|Hash Sum mismatch|Could not (resolve|connect)|No space left on device'
# Otherwise, what pip, npm and apt refuse of our own files: names, requirements and packages.
ours='Could not open (requirements|constraint) file|TOMLDecodeError|Could not build wheels for lilypad|Invalid (requirement|constraint)|Failed to build .?(lilypad|file:)[^ ]*( when [^i]|$)|is not installable\. Neither|ResolutionImpossible|[Mm]issing script|code (EUSAGE|EJSONPARSE)|Unable to locate package'
# What else they refuse counts as theirs: `make setup` has installed the same pins on the same machine.
theirs='^ERROR: |^npm (error|ERR!)|^E: '

# ends PATTERN LOG: whether the log's end has the pattern. Not by a pipe: it fails where grep ends before tail.
ends() { grep -qE "$1" <(tail -n 60 "$2"); }

told() {
    local log=$1 attempt status=1
    shift
    for attempt in 1 2 3; do
        "$@" >"$log" 2>&1 && return
        status=${fault:-1}
        if ends "$registry" "$log" || { ! ends "$ours" "$log" && ends "$theirs" "$log"; }; then
            status=75
        fi
        [ $status = 75 ] || break
        [ $attempt -eq 3 ] || { echo "a registry did not answer; trying again" >&2; sleep "${pause_s:-10}"; }
    done
    echo "failed: $*" >&2
    tail -n 40 "$log" >&2
    exit $status
}

# A start that takes longer hangs, in seconds; then it has some time to end its containers.
start_s=${start_s:-300} end_s=60
able=${able:-deploy/images/able.sh}

started() {
    local attempt
    # Twice, since other work on this machine can make any part of it too slow.
    for attempt in 1 2; do
        # In the foreground, so that what ends this script ends the start as well.
        timeout --foreground --kill-after="$end_s" "$start_s" "$@" && return
        echo "attempt $attempt: the stack of images failed, or took longer than $start_s s" >&2
    done
    # The machine's fault, where it does not even run a container that does nothing.
    "$able" || exit 75
    exit 1
}

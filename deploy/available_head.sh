# How every question about a package repository begins, before available.sh or available_rpm.sh: a
# temporary directory that is removed at the end, and the way to say that there is no answer.
# Answer: a frame of lines between "gpufleet-available 1" and "gpufleet-available end".
set -u
LC_ALL=C
PATH=/usr/sbin:/usr/bin:/sbin:/bin
export LC_ALL PATH
umask 077

echo "gpufleet-available 1"
refuse() {
    echo "failed $1"
    [ -f "$work/log" ] && tail -c 4000 "$work/log" | tr -cd '\11\12\40-\176'
    echo
    echo "gpufleet-available end"
    exit 0
}
work=
work=$(mktemp -d "${TMPDIR:-/tmp}/gpufleet-available.XXXXXX") || refuse directory
trap 'rm -rf "$work"' EXIT
trap 'exit 143' HUP INT TERM

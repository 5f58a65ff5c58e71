export DEBIAN_FRONTEND=noninteractive APT_LISTCHANGES_FRONTEND=none NEEDRESTART_SUSPEND=1
work=$(mktemp -d /run/gpufleet-apt.XXXXXX)
archives=/var/cache/apt/archives/gpufleet
trap 'code=$?; rm -rf "$work"; [ "$code" -ne 0 ] || rm -rf "$archives"' EXIT
trap 'exit 143' HUP INT TERM
mkdir -p "$archives"
apt() {
    apt-get -y -q -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 \
        -o Dir::Cache::archives="$archives" \
        -o Dpkg::Options::=--force-confdef -o Dpkg::Options::="--force-${conffiles:-confold}" "$@"
}
patiently() {
    patience=60
    while :; do
        { code=0; "$@" || code=$?; echo "$code" >"$work/code"; } 2>&1 | tee "$work/said"
        code=$(cat "$work/code")
        [ "$code" -ne 0 ] || return 0
        grep -q -e '^E: Could not get lock' -e '^dpkg: error: .*lock was locked' "$work/said" &&
            [ "$patience" -gt 0 ] || return "$code"
        patience=$((patience - 1))
        sleep 5
    done
}
refresh() {
    patiently apt update ||
        echo "some package sources of this host could not be read; going on with the others"
}

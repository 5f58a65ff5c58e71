work=$(mktemp -d /run/gpufleet-dnf.XXXXXX)
trap 'rm -rf "$work"' EXIT
trap 'exit 143' HUP INT TERM
plugins=
dnf4() {
    command dnf -y --setopt=exit_on_lock=1 --setopt='*.skip_if_unavailable=1' \
        --setopt=installonly_limit=0 --setopt=install_weak_deps=0 ${plugins:+"$plugins"} \
        --disableplugin=versionlock "$@" </dev/null
}
patiently() {
    patience=60
    while :; do
        { code=0; "$@" || code=$?; echo "$code" >"$work/code"; } 2>&1 | tee "$work/said"
        code=$(cat "$work/code")
        [ "$code" -ne 0 ] || return 0
        [ "$code" -eq 200 ] || grep -q "can't create transaction lock" "$work/said" ||
            return "$code"
        [ "$patience" -gt 0 ] || return "$code"
        patience=$((patience - 1))
        sleep 5
    done
}

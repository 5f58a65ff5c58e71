rm -rf "$envs"/.build-*
build=$envs/.build-$id.$$
final=$envs/$id
cleanup() {
    rm -rf "$envs"/.build-*
    free=$(df -Pk "$prefix" | awk 'NR == 2 { print $4 }')
    if [ "${free:-0}" -lt 1048576 ]; then rm -rf "$prefix/cache"; fi
}
trap cleanup EXIT
trap 'exit 143' HUP INT TERM
cat >"$build.txt"
install_wheels() {
    if "$@" >"$build.said" 2>&1; then cat "$build.said"; return; fi
    cat "$build.said" >&2
    cut -d ' ' -f 1 "$build.txt" | while read -r pin; do
        if grep -qiF -e "$pin" -e "Because ${pin%%==*} was not found" "$build.said"; then
            echo "the locked wheel $pin cannot be had as it was locked; next:" \
                "gpufleet lock INVENTORY --upgrade extras (or torch)" >&2
        fi
    done
    exit 1
}
